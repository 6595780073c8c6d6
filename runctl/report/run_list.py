"""The list of a deployment's runs, read from the summaries on their items."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from runctl.model.outcome import RunStatus
from runctl.model.run import AttemptsSummary, Run, status_of, summarize
from runctl.report.wording import instant_text

if TYPE_CHECKING:
    from runctl.aws.ledger import DynamoLedger

# The runs among which a list by status searches, the newest first.
_MAX_SEARCHED = 1000
# Queries at a time, for runs of an earlier version.
_QUERIES = 8


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """A run in a list.

    `attempt` is the number of the last attempt, 0 before the first, and `pool` the pool of the last
    that was launched. `step` and `save` are those of the newest checkpoint, if there is one.
    """

    run_id: str
    kind: str
    group: str
    status: RunStatus
    has_ended: bool
    reason: str
    step: int | None
    save: int
    has_checkpoint: bool
    started_at: datetime
    ended_at: datetime | None
    attempt: int
    pool: str
    interruptions: int
    failures: int

    def as_document(self) -> dict[str, Any]:
        """Return the entry as `runctl list --json` prints it."""
        return {
            "run_id": self.run_id,
            "kind": self.kind,
            **({"group": self.group} if self.group else {}),
            "status": self.status.value,
            "reason": self.reason,
            "step": self.step,
            "save": self.save or None,
            "started_at": instant_text(self.started_at),
            "ended_at": instant_text(self.ended_at),
            "attempt": self.attempt,
            "interruptions": self.interruptions,
            "failures": self.failures,
        }


def entry_of(run: Run, summary: AttemptsSummary) -> RunEntry:
    """Return the entry of a run."""
    return RunEntry(
        run_id=run.run_id,
        kind=run.request.kind,
        group=run.request.group,
        status=status_of(run, summary),
        has_ended=run.ended is not None,
        reason=run.reason,
        step=run.step,
        save=run.save,
        has_checkpoint=run.newest is not None,
        started_at=run.started_at,
        ended_at=run.ended_at,
        attempt=summary.last,
        pool=summary.pool,
        interruptions=summary.interruptions,
        failures=summary.failures,
    )


def read_run_list(
    ledger: DynamoLedger, *, limit: int, status: RunStatus | None = None
) -> list[RunEntry]:
    """Return the newest runs, with `status` only those that have it.

    The list needs one query, or one for each megabyte of runs. Runs that an earlier version stored
    have no summary, and their attempts are queried. The index behind the list follows the ledger
    within a second or so.
    """
    runs = ledger.list_runs(limit=limit if status is None else _MAX_SEARCHED)
    if status is not None and status.is_final:
        runs = [run for run in runs if run.ended is status][:limit]
    elif status is not None:
        runs = [run for run in runs if run.ended is None]
    entries = [entry_of(run, summary) for run, summary in _with_summaries(ledger, runs)]
    return [entry for entry in entries if status in {None, entry.status}][:limit]


def read_entry(ledger: DynamoLedger, run: Run) -> RunEntry:
    """Return the entry of a run, whichever version stored it."""
    ((_, summary),) = _with_summaries(ledger, [run])
    return entry_of(run, summary)


def _with_summaries(ledger: DynamoLedger, runs: Sequence[Run]) -> list[tuple[Run, AttemptsSummary]]:
    without = [run.run_id for run in runs if run.summary is None]
    with ThreadPoolExecutor(max_workers=_QUERIES) as pool:
        queried = dict(zip(without, pool.map(ledger.attempts, without), strict=True))
    return [
        (run, summarize(queried[run.run_id]) if run.summary is None else run.summary)
        for run in runs
    ]
