"""The documents about a run and its attempts, as --json prints them."""

from collections.abc import Sequence
from typing import Any

from runctl.model.outcome import is_own_failure
from runctl.model.plain_secrets import mask_request
from runctl.model.run import INTERRUPTIONS, Attempt, Run, summarize
from runctl.model.saving import Saving
from runctl.model.versions import Versions
from runctl.report.run_list import entry_of
from runctl.report.wording import instant_text


def interruptions(attempts: Sequence[Attempt]) -> int:
    """Count the attempts that lost their instance."""
    ends = [attempt.ended for attempt in attempts if attempt.ended is not None]
    return sum(end.kind in INTERRUPTIONS for end in ends)


def failures(attempts: Sequence[Attempt]) -> int:
    """Count the attempts that ended because their trainer failed."""
    return sum(is_own_failure(attempt.ended) for attempt in attempts)


def warnings_of(attempts: Sequence[Attempt]) -> list[str]:
    """Return the agent's warnings in order, each once."""
    return list(dict.fromkeys(attempt.warning for attempt in attempts if attempt.warning))


def unfinished_final_saves(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the attempts whose final save did not finish within its grace period."""
    return [
        attempt
        for attempt in attempts
        if attempt.saving is not None and attempt.saving.missed_grace is not None
    ]


def run_document(
    run: Run, attempts: Sequence[Attempt], versions: Versions | None = None
) -> dict[str, Any]:
    """Return everything about a run except its task tokens; secrets are masked."""
    return {
        **entry_of(run, summarize(attempts)).as_document(),
        "execution": run.execution,
        "execution_arn": run.execution_arn,
        "executions": run.executions,
        "newest_checkpoint": run.newest,
        "committed_at": instant_text(run.committed_at),
        "warnings": warnings_of(attempts),
        "unfinished_final_saves": len(unfinished_final_saves(attempts)),
        "versions": None if versions is None else versions.as_document(),
        "attempts": [_attempt_document(attempt) for attempt in attempts],
        "request": mask_request(run.request.as_document()),
    }


def _attempt_document(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "stage": attempt.stage.value,
        "outcome": None if attempt.ended is None else attempt.ended.as_document(),
        "plan": attempt.plan,
        "pool": attempt.pool,
        "instance_ids": list(attempt.instance_ids),
        "launched_at": instant_text(attempt.launched_at),
        "running_at": instant_text(attempt.running_at),
        "heartbeat_at": instant_text(attempt.heartbeat_at),
        "noticed_at": instant_text(attempt.noticed_at),
        "ended_at": instant_text(attempt.ended_at),
        "phase": attempt.phase,
        "resume_step": attempt.resume_step,
        "resume_save": attempt.resume_save,
        "step": attempt.progress_step,
        "metrics": dict(attempt.metrics),
        "timeline": {name: instant_text(instant) for name, instant in attempt.timeline.items()},
        "saving": None if attempt.saving is None else _saving_document(attempt.saving),
        "warning": attempt.warning,
    }


def _saving_document(saving: Saving) -> dict[str, Any]:
    return {**saving.as_document(), "fits_notice": saving.fits_notice}
