"""The assembly of a serving session from the parts of an attempt."""

from collections.abc import Mapping

from runctl.agent.contract import build_contract
from runctl.agent.instance.ownership import require_inside
from runctl.agent.parts import AttemptParts
from runctl.agent.prepare.prepared import Prepared
from runctl.agent.serving.replacement import Replacement
from runctl.agent.serving.session import ServingSession
from runctl.agent.signals.waiting import CHECK
from runctl.model.outcome import Outcome
from runctl.model.request import RunRequest


def await_turn(parts: AttemptParts) -> None:
    """Wait until at most the attempt before this one may serve, too.

    Only that one: its neighbours in the order of the attempts never serve at the same time.
    """
    parts.progress.enter("wait")
    while parts.preparation.read_run().fence < parts.settings.attempt - 1:
        parts.wait.pause(CHECK)


def serve(
    parts: AttemptParts,
    request: RunRequest,
    prepared: Prepared,
    *,
    env: Mapping[str, str],
    credentials: Mapping[str, str],
) -> Outcome | None:
    """Serve, also before the token arrives; return None if a later attempt owns the run."""
    settings = parts.settings
    require_inside(prepared.checkpoint, settings.paths.state)
    prepared.checkpoint.mkdir(parents=True, exist_ok=True)

    def publish() -> None:
        # From the token's arrival on the heartbeat does.
        if not parts.may_report():
            parts.store_progress()

    session = ServingSession(
        request.serve,
        parts.runtime,
        make_contract=lambda port: build_contract(
            settings, request, prepared, env=env, credentials=credentials, port=port
        ),
        replacement=Replacement(
            parts.services.ledger, run_id=settings.run_id, attempt=settings.attempt
        ),
        mailbox=parts.mailbox,
        progress=parts.progress,
        publish=publish,
        may_report=parts.may_report,
        mask=parts.mask,
    )
    return session.run()
