"""Rules for warm instances: which may wait, which fit a run, and in what order. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from runctl.model.group import WarmInstance, WarmStage
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.pool import MachineKind, Pool, machine_kind
from runctl.model.request import RunRequest
from runctl.model.root_volume import RootVolume
from runctl.policy.disk_size import GIB

# These ends say nothing bad about the machine: the program ended, or was asked to.
_HARMLESS = frozenset({OutcomeKind.COMPLETED, OutcomeKind.FAILED, OutcomeKind.STOPPED})
# The agent leaves a little later than nothing claims its instance any more.
MARGIN = timedelta(seconds=15)
# File systems keep a part of a disk for themselves.
_USABLE_PERCENT = 90


def may_wait(outcome: Outcome | None) -> bool:
    """Return whether an instance may go on with another run after such an end of an attempt.

    The program must have run, and ended: its exit code shows that the machine could start one.
    After a full disk the next attempt needs a larger one.
    """
    return (
        outcome is not None
        and outcome.kind in _HARMLESS
        and outcome.exit_code is not None
        and not outcome.is_disk_full
    )


def is_claimable(warm: WarmInstance, *, now: datetime) -> bool:
    """Return whether an instance waits, and its agent will for a while."""
    if warm.stage is not WarmStage.WAITING or warm.since is None:
        return False
    return now - warm.since < timedelta(seconds=warm.keep_seconds)


def may_follow(request: RunRequest, before: RunRequest) -> bool:
    """Return whether a run may use the instance that another one has used.

    A program that was root may have left anything there, and changed the agent itself. So what is
    not root follows only what was not.
    """
    return request.program.root or not before.program.root


def fits(
    warm: WarmInstance,
    candidates: Sequence[Pool],
    volumes: Mapping[MachineKind, RootVolume],
) -> bool:
    """Return whether a run may use an instance: it accepts its type and market, and its disk.

    `candidates` are the pools that the run accepts, and `volumes` the root volumes that it would
    get. The zone does not matter: the instance is there already.
    """
    try:
        pool = Pool.parse(warm.pool)
        volume = volumes.get(machine_kind(pool.instance_type))
    except ValueError:
        return False
    accepted = {(each.instance_type, each.market) for each in candidates}
    if (pool.instance_type, pool.market) not in accepted:
        return False
    return volume is None or warm.disk_bytes * 100 >= volume.gib * GIB * _USABLE_PERCENT


def in_order(found: Sequence[WarmInstance], run_id: str) -> list[WarmInstance]:
    """Return instances in an order that differs between runs, so that few try the same one."""

    def place(warm: WarmInstance) -> str:
        return hashlib.sha256(f"{run_id}\0{warm.instance_id}".encode()).hexdigest()

    return sorted(found, key=place)


def waited(warm: WarmInstance, *, now: datetime) -> timedelta:
    """Return how long an instance has waited for runs of its group, or did.

    One that has disappeared without a sign is counted until it would have left by itself.
    """
    if warm.since is None:
        return warm.waited
    most = timedelta(seconds=warm.keep_seconds) + MARGIN
    wait = (warm.left_at or now) - warm.since
    return warm.waited + min(max(wait, timedelta(0)), most)


def overdue_since(warm: WarmInstance) -> datetime | None:
    """Return when an idle instance should have left by itself; None without a known time."""
    if not warm.is_idle or warm.since is None:
        return None
    return warm.since + timedelta(seconds=warm.keep_seconds) + MARGIN
