"""The precondition for changing checkpoints: no attempt of the run is alive."""

from __future__ import annotations

from datetime import datetime, timezone

from runctl.cli.commands.find import find_run
from runctl.cli.invocation import Invocation
from runctl.model.errors import RequestError

# A stopping agent may still be saving for this long after its last heartbeat.
_QUIET_SECONDS = 120


def refuse_while_it_lives(invocation: Invocation, run: str, what: str) -> None:
    """Refuse while an attempt may be alive: only the attempt with the fence may commit."""
    ledger = invocation.cloud.ledger
    held = find_run(invocation.cloud, run)
    if held.ended is None:
        raise RequestError(
            f"{run} has not ended; to {what} its checkpoints, stop it with "
            f"`runctl stop {run}`, or wait for its end"
        )
    now = datetime.now(timezone.utc)
    for attempt in ledger.attempts(run):
        beat = attempt.heartbeat_at
        saving = attempt.phase in {"drain", "upload"}
        if saving and beat is not None and (now - beat).total_seconds() < _QUIET_SECONDS:
            raise RequestError(
                f"attempt {attempt.number} of {run} is still saving; try again in two minutes"
            )
