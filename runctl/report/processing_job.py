"""The document of a processing job on several instances: its runs, and how many shards are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from runctl.model.group import Group
from runctl.model.outcome import RunStatus
from runctl.model.request import RunRequest
from runctl.model.shard_progress import ShardProgress
from runctl.policy.sharding import batch_run_id, divide
from runctl.report.group_time import GroupTime, group_time
from runctl.report.run_document import RunDocument, document_of
from runctl.report.timeline import shards_document
from runctl.report.wording import instant_text

if TYPE_CHECKING:
    from runctl.aws.services import AwsServices


@dataclass(frozen=True, kw_only=True)
class JobDocument:
    """A job with those of its runs that have begun, in the order of their batches."""

    group: Group
    read_at: datetime
    output: str
    batches: int
    shards: ShardProgress
    runs: tuple[RunDocument, ...]
    time: GroupTime

    @property
    def status(self) -> RunStatus:
        """How it ended, or whether any of its runs has begun."""
        if self.group.ended is not None:
            return self.group.ended
        return RunStatus.RUNNING if self.runs else RunStatus.PENDING

    def as_document(self) -> dict[str, Any]:
        """Return the document as `runctl status --json` prints it."""
        group = self.group
        return {
            "job": group.group_id,
            "status": self.status.value,
            "reason": group.reason,
            "started_at": instant_text(group.started_at),
            "ended_at": instant_text(group.ended_at),
            "execution_arn": group.execution_arn,
            "output": self.output,
            "shards": shards_document(self.shards),
            **self.time.as_document(),
            "batches": self.batches,
            "runs": [
                {
                    "run_id": run.run_id,
                    "status": run.status.value,
                    "reason": run.entry.reason,
                    "shards": None if run.shards is None else shards_document(run.shards),
                    "attempts": len(run.timeline),
                }
                for run in self.runs
            ],
        }


@dataclass
class JobReader:
    """Reads a job repeatedly. A run that has ended is read once."""

    source: AwsServices
    _ended: dict[str, RunDocument] = field(default_factory=dict)

    def read(self, group: Group) -> JobDocument:
        """Return what is known of a job now."""
        now = datetime.now(timezone.utc)
        header = self.source.processing_jobs.find_plan(group.group_id)
        options = RunRequest.from_stored(group.request).process
        total = 0 if header is None else header.shards
        batches = divide(total, instances=options.instances) if total else []
        runs = []
        for batch in batches:
            run = self._read_run(batch_run_id(group.group_id, batch.number), now)
            if run is not None:
                runs.append(run)
        return JobDocument(
            group=group,
            read_at=now,
            output=options.output,
            batches=len(batches),
            shards=shards_together(runs, total),
            runs=tuple(runs),
            time=group_time(
                [run.cost.machine_time for run in runs],
                self.source.groups.list_all_warm(group.group_id),
                now=now,
            ),
        )

    def _read_run(self, run_id: str, now: datetime) -> RunDocument | None:
        if run_id in self._ended:
            return self._ended[run_id]
        run = self.source.ledger.find_run(run_id)
        if run is None:
            return None
        document = document_of(run, self.source.ledger.attempts(run_id), now=now)
        if document.entry.has_ended:
            self._ended[run_id] = document
        return document


def shards_together(runs: Sequence[RunDocument], total: int) -> ShardProgress:
    """Return the shards of all runs together.

    The rate is the sum of those of the active runs. One that has not ended a shard yet, as those of
    few shards for most of their time, counts with the average of all attempts.
    """
    counted = [run.shards for run in runs if run.shards is not None]
    shards = ShardProgress(
        total=max(1, total),
        done=sum(shards.done for shards in counted),
        failed=sum(shards.failed for shards in counted),
    )
    busy = sum((entry.took for run in runs for entry in run.timeline if entry.took), timedelta())
    average = shards.ended / busy.total_seconds() if busy else 0.0
    rates = [
        (run.shards.per_second if run.shards else None) or average
        for run in runs
        if not run.entry.has_ended
    ]
    return replace(shards, per_second=sum(rates) or None)


def is_processing_job(request: Mapping[str, Any]) -> bool:
    """Whether a request starts a job on several instances, and not one run."""
    process = request.get("process")
    return isinstance(process, Mapping) and process.get("instances", 1) > 1
