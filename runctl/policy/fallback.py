"""Conclusions about a restored checkpoint from the death of the trainer that was given it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry

# A trainer that loads a checkpoint which is not complete dies of it at once.
SOON = timedelta(minutes=1)
MAX_STEPS_BACK = 3
SIGNAL_EXIT = 128
# SIGTERM and SIGKILL come from outside, or from the kernel for lack of memory; a command that
# cannot be run at all (126, 127) has read no checkpoint.
SAYS_NOTHING = frozenset({-9, -15, 126, 127, SIGNAL_EXIT + 9, SIGNAL_EXIT + 15})
# The smallest file of a save, compared with the largest; logs and settings are smaller.
LARGE_SHARE = 4


class DeathCause(Enum):
    """The cause of a death."""

    CHECKPOINT = "checkpoint"  # probably: the previous one may work
    PROGRAM = "program"
    UNRELATED = "unrelated"  # it says nothing about the checkpoint


@dataclass(frozen=True, kw_only=True)
class Death:
    """A trainer that exited with an error after a restore.

    `failure_id` is the same for two deaths of the same cause. `continued` says whether it had saved
    beyond what it was given; `is_certain` whether that was beyond doubt: the beginning, or a
    checkpoint that another trainer continued from. `has_other_cause` when the machine is to blame.
    """

    exit_code: int
    failure_id: str
    lived: timedelta
    continued: bool = False
    is_certain: bool = False
    has_other_cause: bool = False


def judge(deaths: Sequence[Death]) -> DeathCause:
    """Judge the last of the deaths on this machine, one after each restore, in their order."""
    last, earlier = deaths[-1], deaths[:-1]
    if last.continued or last.has_other_cause or last.exit_code in SAYS_NOTHING:
        return DeathCause.UNRELATED
    if last.is_certain:
        return DeathCause.PROGRAM
    if last.lived <= SOON:
        return DeathCause.CHECKPOINT
    # It ran for a while without a save. Once, that may be a damaged file that is read late.
    is_first = all(death.lived <= SOON for death in earlier)
    is_new = all(death.failure_id != last.failure_id for death in earlier)
    return DeathCause.CHECKPOINT if is_first and is_new else DeathCause.PROGRAM


def may_fall_back(deaths: Sequence[Death]) -> bool:
    """Whether the trainer is to be started once more, from the previous checkpoint."""
    return judge(deaths) is DeathCause.CHECKPOINT and len(deaths) <= MAX_STEPS_BACK


def continued_from(given: Manifest, committed: Manifest) -> bool:
    """Whether a later checkpoint shows that the trainer loaded the one it was given.

    By its step, if both are known; otherwise it must have written something of a save's size: many
    programs write a log or their settings before they load anything.
    """
    if given.step is not None and committed.step is not None:
        return committed.step > given.step
    known = {_version(entry) for entry in given.entries}
    largest = max((entry.size_bytes for entry in given.entries), default=0)
    return any(
        entry.size_bytes * LARGE_SHARE >= largest and _version(entry) not in known
        for entry in committed.entries
        if entry.kind == "file"
    )


def _version(entry: Entry) -> tuple[str, int, int]:
    # A restore keeps times, so a file that the trainer has not written to has the same one.
    return entry.path, entry.size_bytes, entry.mtime_ns


def in_order_of_trust(
    keys: Iterable[str], *, suspects: frozenset[str], tried: frozenset[str] = frozenset()
) -> list[str]:
    """Order checkpoints as they are to be offered: the newest first, suspects after all others.

    Those that were `tried` on this machine are left out.
    """
    newest_first = sorted(set(keys) - tried, reverse=True)
    return sorted(newest_first, key=lambda key: key in suspects)
