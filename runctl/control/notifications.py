"""Notifications: messages to the topic about how a run ended."""

import logging

from runctl.control.ports.services import Services
from runctl.model.identity import output_prefix
from runctl.model.run import Run

logger = logging.getLogger(__name__)


def notify_end(services: Services, run: Run, *, attempts: int) -> bool:
    """Publish the run's end unless that was done; return whether this call settled it.

    It never raises, because a message that cannot be sent must not delay a run's end. The end is
    marked as notified only after the message was sent. So the clean-up that follows every execution
    makes up for a failed FinishRun, and a crash between the two sends the message twice. For a
    group, only its own end is published: it may have thousands of runs.
    """
    if run.ended_at is None or run.is_settled:
        return False
    try:
        if not run.request.group:
            services.notices.publish(subject=_subject(run), body=_body(services, run, attempts))
        services.ledger.record_notified(run.run_id, end=run.ended_at)
    except Exception:
        logger.exception("the notification about the end of the run %s failed", run.run_id)
        return False
    return True


def _subject(run: Run) -> str:
    """Return the subject; the longest has 80 of the 100 characters that SNS accepts."""
    return f"run {run.run_id} {run.ended.value if run.ended else 'ended'}"


def _step(run: Run) -> str:
    if run.step is not None:
        return str(run.step)
    return "none" if run.newest is None else f"unknown (save {run.save})"


def _body(services: Services, run: Run, attempts: int) -> str:
    checkpoint = "none" if run.newest is None else services.objects.uri(run.newest)
    facts = {
        "run": run.run_id,
        "status": run.ended.value if run.ended else "ended",
        "reason": run.reason,
        "attempts": attempts,
        "step": _step(run),
        "checkpoint": checkpoint,
        "outputs": services.objects.uri(output_prefix(run.run_id)),
    }
    return "".join(f"{name}: {value}\n" for name, value in facts.items())
