"""The cost of a run: machine time, and what interruptions, failures and saves take of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from runctl.model.run import AttemptsSummary, Run
from runctl.model.saving import Saving
from runctl.report.machine_time import total
from runctl.report.timeline import AttemptEntry


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run has cost so far.

    `machine_time` is that of all machines, by market. `max_failures` is how many failures of the
    trainer are retried, 0 if none are. `unfinished_final_saves` are the numbers of the attempts
    whose final save did not finish within its grace period, the last of which was `last_grace`.
    `saving` is the newest live attempt's.
    """

    machine_time: Mapping[str, timedelta]
    interruptions: int
    failures: int
    max_failures: int
    unfinished_final_saves: tuple[int, ...]
    last_grace: timedelta | None
    saving: Saving | None


def cost_of(run: Run, summary: AttemptsSummary, timeline: Sequence[AttemptEntry]) -> Cost:
    """Return the cost of a run."""
    graces = {
        entry.number: entry.saving.missed_grace
        for entry in timeline
        if entry.saving is not None and entry.saving.missed_grace is not None
    }
    savings = [entry.saving for entry in timeline if entry.is_live and entry.saving is not None]
    retry = run.request.limits.retry
    return Cost(
        machine_time=total([entry.machine_time for entry in timeline]),
        interruptions=summary.interruptions,
        failures=summary.failures,
        max_failures=retry.max_failures if retry.is_on else 0,
        unfinished_final_saves=tuple(graces),
        last_grace=list(graces.values())[-1] if graces else None,
        saving=savings[-1] if savings else None,
    )
