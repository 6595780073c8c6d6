"""The size and speed of an attempt's root volumes. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from runctl.model.decision import MAX_DOUBLINGS
from runctl.model.disk_options import IOPS_PER_GIB, IOPS_PER_MIB, MAX_GIB, DiskOptions
from runctl.model.pool import MachineKind
from runctl.model.root_volume import RootVolume
from runctl.model.run import Attempt, Run

GIB = 2**30
# A full disk is not enlarged beyond this; a request may name a larger one.
MAX_GROWN_GIB = 16_384
# The packed code and what it becomes; text shrinks to about a third.
CODE_COPIES = 4
# The files of the trainer, and those that are fetched to replace them or pinned for a save.
CHECKPOINT_COPIES = 2
# The files, and the packages that they are unpacked from, or the bytecode that is compiled of them.
ENVIRONMENT_COPIES = 2
# The layers as they are pulled, and unpacked.
IMAGE_COPIES = 4
# File systems keep a part of their blocks for themselves and for root.
SPARE_PERCENT = 10


@dataclass(frozen=True, kw_only=True)
class PlannedVolumes:
    """The root volume of each kind of machine that differs from its launch template's, and why."""

    volumes: Mapping[MachineKind, RootVolume]
    reason: str = ""


def plan_volumes(
    run: Run,
    earlier: Sequence[Attempt],
    templates: Mapping[MachineKind, RootVolume],
    kinds: Collection[MachineKind],
) -> PlannedVolumes:
    """Return the volumes of the next attempt of a run on these `kinds` of machines.

    The `earlier` attempts have ended or are about to; they show how large the environment is.
    `templates` are the root volumes of the deployment's launch
    templates; a kind that is missing there, in a deployment of an earlier version, keeps its own.
    """
    full = [attempt.number for attempt in earlier if attempt.ended and attempt.ended.is_disk_full]
    asked = run.request.resources.disk
    known = known_bytes(
        input_bytes=run.input_bytes,
        code_bytes=run.code_bytes,
        checkpoint_bytes=run.newest_bytes,
        image_bytes=0 if run.image is None else run.image.size_bytes,
        environment_bytes=max((attempt.environment_bytes for attempt in earlier), default=0),
    )
    volumes = {}
    for kind in sorted(kinds & templates.keys()):
        volume = _grown(_planned(asked, templates[kind], known), times=len(full))
        if volume != templates[kind]:
            volumes[kind] = volume
    sizes = sorted({volume.gib for volume in volumes.values()})
    reason = f"a disk of {' or '.join(f'{size:,}' for size in sizes)} GiB" if sizes else ""
    if reason and full:
        reason += f", since the disk of attempt {full[-1]} was full"
    return PlannedVolumes(volumes=volumes, reason=reason)


def known_bytes(
    *,
    input_bytes: int,
    code_bytes: int,
    checkpoint_bytes: int = 0,
    image_bytes: int = 0,
    environment_bytes: int = 0,
) -> int:
    """Return the room that is needed for what is known of a run, in bytes."""
    return (
        input_bytes
        + CODE_COPIES * code_bytes
        + CHECKPOINT_COPIES * checkpoint_bytes
        + IMAGE_COPIES * image_bytes
        + ENVIRONMENT_COPIES * environment_bytes
    )


def problem_with_disk(
    asked: DiskOptions,
    templates: Mapping[MachineKind, RootVolume],
    kinds: Collection[MachineKind],
    *,
    known: int,
) -> str:
    """Return why EC2 would refuse the disk of a request, with the remedy; empty if it would not.

    `known` is the room in bytes that is needed for what is known of the run.
    """
    for kind in sorted(kinds & templates.keys()):
        template = templates[kind]
        if asked.gib and asked.gib < template.gib:
            return (
                f"gib: {asked.gib} is less than the {template.gib} GiB that the image and the "
                f"environment of machines of the kind {kind.value} need; give at least "
                f"{template.gib}, or leave it out"
            )
        if (needed := _needed_gib(template, known)) > MAX_GIB:
            return (
                f"the inputs need a disk of {needed:,} GiB, and the largest has {MAX_GIB:,}; let "
                "the trainer read a part of them from S3"
            )
        planned = _planned(asked, template, known)
        if planned.iops > planned.gib * IOPS_PER_GIB:
            return (
                f"{planned.iops} iops need a disk of at least "
                f"{-(-planned.iops // IOPS_PER_GIB)} GiB; raise gib, or lower iops or throughput"
            )
        if planned.iops < planned.throughput * IOPS_PER_MIB:
            return (
                f"iops: {planned.iops} is too few for a throughput of {planned.throughput} MiB/s; "
                f"give at least {planned.throughput * IOPS_PER_MIB}, or leave it out"
            )
    return ""


def _planned(asked: DiskOptions, template: RootVolume, known: int) -> RootVolume:
    throughput = asked.throughput or template.throughput
    return replace(
        template,
        gib=min(MAX_GIB, max(asked.gib, template.gib, _needed_gib(template, known))),
        throughput=throughput,
        iops=asked.iops or max(template.iops, throughput * IOPS_PER_MIB),
    )


def _needed_gib(template: RootVolume, known: int) -> int:
    """Return the size in GiB that has room for `known` bytes.

    Half of the template's size is left for the machine's image and what is not known, such as the
    environment before the first attempt.
    """
    return template.gib // 2 - -known * (100 + SPARE_PERCENT) // (100 * GIB)


def _grown(volume: RootVolume, *, times: int) -> RootVolume:
    if not times:
        return volume
    grown = min(MAX_GROWN_GIB, volume.gib * 2 ** min(times, MAX_DOUBLINGS))
    return replace(volume, gib=max(volume.gib, grown))
