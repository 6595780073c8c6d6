"""The document of a run: everything that people want to know about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from runctl.model.image import Image
from runctl.model.kinds import policy_of
from runctl.model.outcome import RunStatus
from runctl.model.plain_secrets import mask_request, mask_words
from runctl.model.run import Attempt, Run, summarize, was_refused
from runctl.model.shard_progress import ShardProgress
from runctl.model.subject import Subject
from runctl.model.versions import Versions
from runctl.report.cost import Cost, cost_of
from runctl.report.run_list import RunEntry, entry_of
from runctl.report.timeline import AttemptEntry, shards_document, timeline_of
from runctl.report.wording import instant_text


@dataclass(frozen=True, kw_only=True)
class RunDocument:
    """A run as of an instant, `read_at`, without task tokens and with secrets masked.

    `program` is the script or command with its arguments, or the image's own command. `was_refused`
    says that the run failed because AWS refused to launch a machine. `image` is that of its
    containers, and `versions` are those of its packages, both once known. `metrics` are those of
    its result, after its end. `subject` is the checkpoint that it evaluates, and `evaluates` the
    name for what it evaluates.
    """

    entry: RunEntry
    read_at: datetime
    execution: str
    execution_arn: str
    executions: int
    newest_checkpoint: str | None
    committed_at: datetime | None
    program: tuple[str, ...]
    request: Mapping[str, Any]
    timeline: tuple[AttemptEntry, ...]
    cost: Cost
    was_refused: bool
    image: Image | None = None
    versions: Versions | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    subject: Subject | None = None
    evaluates: str = ""

    @property
    def run_id(self) -> str:
        """The name of the run."""
        return self.entry.run_id

    @property
    def status(self) -> RunStatus:
        """The status of the run."""
        return self.entry.status

    @property
    def is_service(self) -> bool:
        """Whether its program is a server."""
        return policy_of(self.entry.kind).becomes_ready

    @property
    def last_attempt(self) -> AttemptEntry | None:
        """The last attempt, None before the first."""
        return self.timeline[-1] if self.timeline else None

    @property
    def next_launch_at(self) -> datetime | None:
        """When the next launch is planned, None if the run does not wait for one."""
        last = self.last_attempt
        if self.entry.has_ended or last is None or last.outcome is None:
            return None
        retry_at = last.outcome.retry_at
        return retry_at if retry_at is not None and retry_at > self.read_at else None

    @property
    def took(self) -> timedelta:
        """The time since the start of the run, or from its start to its end."""
        return (self.entry.ended_at or self.read_at) - self.entry.started_at

    @property
    def shards(self) -> ShardProgress | None:
        """How many shards are done, None for a run that processes none, or before it began.

        The rate is that of an attempt, and ends with it.
        """
        for entry in reversed(self.timeline):
            if entry.shards is not None:
                return entry.shards if entry.is_live else replace(entry.shards, per_second=None)
        return None

    @property
    def warnings(self) -> tuple[str, ...]:
        """The agents' warnings in order, each once; those of a gang with the node."""
        texts = (text for entry in self.timeline for text in entry.warnings)
        return tuple(dict.fromkeys(texts))

    def as_document(self) -> dict[str, Any]:
        """Return the document as `runctl status --json` prints it."""
        return {
            **self.entry.as_document(),
            "execution": self.execution,
            "execution_arn": self.execution_arn,
            "executions": self.executions,
            "newest_checkpoint": self.newest_checkpoint,
            "committed_at": instant_text(self.committed_at),
            "warnings": list(self.warnings),
            "unfinished_final_saves": len(self.cost.unfinished_final_saves),
            **({} if self.shards is None else {"shards": shards_document(self.shards)}),
            "image": None if self.image is None else self.image.as_document(),
            "versions": None if self.versions is None else self.versions.as_document(),
            "metrics": dict(self.metrics),
            "subject": None if self.subject is None else self.subject.as_document(),
            "attempts": [entry.as_document() for entry in self.timeline],
            "request": dict(self.request),
        }


def document_of(
    run: Run, attempts: Sequence[Attempt], versions: Versions | None = None, *, now: datetime
) -> RunDocument:
    """Return the document of a run and its attempts, given in the order of their numbers."""
    summary = summarize(attempts)
    timeline = timeline_of(attempts, now=now, world=run.request.gang.nodes)
    program = run.request.program
    words = (program.script, *program.args) if program.script else program.command
    if not words and run.image is not None:
        words = run.image.command
    return RunDocument(
        entry=entry_of(run, summary),
        read_at=now,
        execution=run.execution,
        execution_arn=run.execution_arn,
        executions=run.executions,
        newest_checkpoint=run.newest,
        committed_at=run.committed_at,
        program=tuple(mask_words(words, program.not_secrets)),
        request=mask_request(run.request.as_document()),
        timeline=timeline,
        cost=cost_of(run, summary, timeline),
        was_refused=was_refused(run, attempts),
        image=run.image,
        versions=versions,
        metrics=run.metrics,
        subject=run.subject,
        evaluates=_evaluates(run),
    )


def _evaluates(run: Run) -> str:
    """Name what an evaluation evaluates, empty for any other run."""
    evaluation, subject = run.request.evaluate, run.subject
    if subject is not None:
        return f"{subject.name} of {subject.run_id}"
    if evaluation.every_checkpoint and evaluation.reference is not None:
        return f"every checkpoint of {evaluation.reference.run_id}"
    return evaluation.checkpoint


@dataclass(frozen=True, kw_only=True)
class UnrecordedRun:
    """A run that is not in the ledger: its execution has just started, or ended before that."""

    run_id: str
    status: RunStatus
    execution: str = ""
    execution_arn: str = ""

    def as_document(self) -> dict[str, Any]:
        """Return what is known."""
        known = {"execution": self.execution, "execution_arn": self.execution_arn}
        return {
            "run_id": self.run_id,
            **{name: value for name, value in known.items() if value},
            "status": self.status.value,
        }
