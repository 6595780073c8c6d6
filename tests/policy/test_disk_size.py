"""The size of an attempt's disk: what is asked for, what is known, and what was full before."""

from dataclasses import replace
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.disk_options import DiskOptions
from runctl.model.image import Image
from runctl.model.node import NodeProgress
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import MachineKind
from runctl.model.request import RunRequest
from runctl.model.root_volume import RootVolume
from runctl.model.run import Attempt, AttemptStage, Run
from runctl.policy.disk_size import (
    GIB,
    MAX_GROWN_GIB,
    PlannedVolumes,
    plan_volumes,
    problem_with_disk,
)
from tests.attempts import make_attempt

CPU = RootVolume(device="/dev/sda1", gib=50, key="alias/aws/ebs")
GPU = RootVolume(device="/dev/sda1", gib=150, key="alias/aws/ebs")
TEMPLATES = {MachineKind.X86_CPU: CPU, MachineKind.X86_GPU: GPU}
RUN = Run(
    run_id="r",
    request=RunRequest.of(script="train.py"),
    started_at=datetime(2030, 1, 1, tzinfo=timezone.utc),
    execution="r",
    execution_arn="arn:r",
)


def asking(run: Run = RUN, **disk: int) -> Run:
    resources = replace(run.request.resources, disk=DiskOptions(**disk))
    return replace(run, request=replace(run.request, resources=resources))


def ended(number: int, *, is_disk_full: bool) -> Attempt:
    outcome = Outcome(kind=OutcomeKind.FAILED, reason="full", is_disk_full=is_disk_full)
    return make_attempt(number, run_id="r", stage=AttemptStage.ENDED, ended=outcome)


def planned(run: Run, *earlier: Attempt, kind: MachineKind = MachineKind.X86_CPU) -> PlannedVolumes:
    return plan_volumes(run, earlier, TEMPLATES, {kind})


def test_a_run_that_asks_for_nothing_keeps_the_disk_of_the_launch_template():
    assert planned(RUN) == PlannedVolumes(volumes={})
    assert plan_volumes(asking(gib=500), (), {}, {MachineKind.X86_CPU}).volumes == {}


def test_each_kind_of_machine_gets_its_own_disk_and_only_those_that_differ_are_named():
    both = plan_volumes(asking(gib=150), (), TEMPLATES, set(TEMPLATES))
    assert both.volumes == {MachineKind.X86_CPU: replace(CPU, gib=150)}
    assert both.reason == "a disk of 150 GiB"


def test_throughput_brings_the_iops_that_it_needs():
    volume = planned(asking(throughput=1000)).volumes[MachineKind.X86_CPU]
    assert (volume.gib, volume.throughput, volume.iops) == (50, 1000, 4000)
    volume = planned(asking(throughput=500)).volumes[MachineKind.X86_CPU]
    assert (volume.throughput, volume.iops) == (500, 3000)
    volume = planned(asking(throughput=500, iops=9000)).volumes[MachineKind.X86_CPU]
    assert volume.iops == 9000


@pytest.mark.parametrize(
    ("sizes", "gib"),
    [
        # Half of the template's 50 GiB is left for what is not known.
        ({"input_bytes": 22 * GIB}, 50),
        ({"input_bytes": 100 * GIB}, 25 + 110),
        ({"newest_bytes": 100 * GIB}, 25 + 220),
        ({"code_bytes": 10 * GIB}, 25 + 44),
        ({"image": Image(reference="r/i@sha256:0", size_bytes=10 * GIB)}, 25 + 44),
        ({"input_bytes": 10 * GIB, "newest_bytes": 10 * GIB}, 25 + 33),
        ({"input_bytes": 10**18}, 65_536),
    ],
)
def test_known_sizes_enlarge_a_disk_that_cannot_hold_them(sizes, gib):
    volumes = planned(replace(RUN, **sizes)).volumes
    assert volumes.get(MachineKind.X86_CPU, CPU).gib == gib


def test_a_larger_request_is_kept_and_a_smaller_one_enlarged():
    large = replace(RUN, input_bytes=100 * GIB)
    assert planned(asking(large, gib=300)).volumes[MachineKind.X86_CPU].gib == 300
    assert planned(asking(large, gib=100)).volumes[MachineKind.X86_CPU].gib == 135


def test_a_disk_has_room_for_the_environment_that_an_earlier_attempt_needed():
    def trained(number: int, environment_bytes: int) -> Attempt:
        node = replace(
            ended(number, is_disk_full=False).nodes[0],
            progress=NodeProgress(environment_bytes=environment_bytes),
        )
        return replace(ended(number, is_disk_full=False), nodes=(node,))

    assert planned(RUN, trained(1, 5 * GIB)).volumes == {}  # there is room for it
    large = trained(1, 20 * GIB)
    assert planned(RUN, large).volumes[MachineKind.X86_CPU].gib == 25 + 44
    # An attempt that was interrupted while its environment was fetched does not know.
    assert planned(RUN, large, trained(2, 0)).volumes[MachineKind.X86_CPU].gib == 25 + 44


def test_each_full_disk_doubles_the_next_one_and_the_reason_names_the_attempt():
    other = ended(2, is_disk_full=False)
    once = planned(RUN, ended(1, is_disk_full=True), other)
    assert once.volumes[MachineKind.X86_CPU].gib == 100
    assert once.reason == "a disk of 100 GiB, since the disk of attempt 1 was full"
    full = [ended(number, is_disk_full=True) for number in range(1, 6)]
    sizes = [planned(RUN, *full[:n]).volumes[MachineKind.X86_CPU].gib for n in range(1, 6)]
    assert sizes == [100, 200, 400, 400, 400]


def test_a_full_disk_does_not_grow_beyond_the_limit_and_never_shrinks():
    full = [ended(number, is_disk_full=True) for number in range(1, 4)]
    large = planned(asking(gib=9000), *full).volumes[MachineKind.X86_CPU]
    assert large.gib == MAX_GROWN_GIB
    larger = planned(asking(gib=20_000), *full).volumes[MachineKind.X86_CPU]
    assert larger.gib == 20_000


@given(
    gib=st.integers(50, 65_536),
    known=st.integers(0, 10**17),
    times=st.integers(0, 6),
)
def test_a_planned_disk_has_room_for_what_is_known_and_is_one_that_ec2_has(gib, known, times):
    run = asking(replace(RUN, input_bytes=known), gib=gib)
    full = [ended(number, is_disk_full=True) for number in range(1, times + 1)]
    volume = planned(run, *full).volumes.get(MachineKind.X86_CPU, CPU)
    assert 50 <= volume.gib <= 65_536
    assert volume.gib >= gib
    assert volume.gib == 65_536 or volume.gib * GIB >= known


@pytest.mark.parametrize(
    ("asked", "known", "message"),
    [
        ({"gib": 49}, 0, "gib: 49 is less than the 50 GiB that the image and the environment"),
        ({"iops": 30_000}, 0, "30000 iops need a disk of at least 60 GiB"),
        ({"gib": 50, "iops": 4000}, 10**18, "the inputs need a disk of"),
        ({}, 10**18, "and the largest has 65,536; let the trainer read a part of them from S3"),
    ],
)
def test_a_disk_that_ec2_would_refuse_is_named_with_the_remedy(asked, known, message):
    kinds = {MachineKind.X86_CPU}
    assert message in problem_with_disk(DiskOptions(**asked), TEMPLATES, kinds, known=known)


def test_iops_that_a_faster_deployment_does_not_need_are_refused():
    fast = {MachineKind.X86_CPU: replace(CPU, throughput=1000, iops=4000)}
    problem = problem_with_disk(DiskOptions(iops=3000), fast, set(fast), known=0)
    assert "iops: 3000 is too few for a throughput of 1000 MiB/s; give at least 4000" in problem


def test_a_disk_of_the_machines_that_the_run_may_use_only_matters():
    kinds = {MachineKind.X86_CPU}
    assert problem_with_disk(DiskOptions(gib=100), TEMPLATES, kinds, known=0) == ""
    assert problem_with_disk(DiskOptions(gib=1), {}, kinds, known=0) == ""
    assert "150 GiB" in problem_with_disk(DiskOptions(gib=100), TEMPLATES, {*TEMPLATES}, known=0)


@pytest.mark.parametrize(
    "document", [{}, {"device": "/dev/sda1"}, {**vars(CPU), "gib": "x"}, {**vars(CPU), "iops": []}]
)
def test_a_root_volume_of_another_version_is_not_known(document):
    assert RootVolume.from_document(document) is None


def test_a_root_volume_is_read_back():
    assert RootVolume.from_document(vars(CPU)) == CPU
