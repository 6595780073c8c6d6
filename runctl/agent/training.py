"""The training of an attempt: its programs, one after the other, until one ends the attempt."""

from collections.abc import Mapping

from runctl.agent.contract import build_contract
from runctl.agent.evaluations import Evaluations
from runctl.agent.fallback import Ended, Fallback
from runctl.agent.gang.member import GangPart
from runctl.agent.parts import AttemptParts
from runctl.agent.prepare.following import follow
from runctl.agent.prepare.prepared import Prepared
from runctl.agent.saving.marks import Marks
from runctl.agent.session import SessionContext, TrainingSession
from runctl.agent.supervision import Supervision
from runctl.aws.checkpoints import CheckpointStore
from runctl.model.outcome import Outcome
from runctl.model.request import RunRequest


class Training:
    """Runs the program of a request, once, again after a bad restore, or for each checkpoint."""

    def __init__(
        self,
        parts: AttemptParts,
        request: RunRequest,
        store: CheckpointStore,
        *,
        env: Mapping[str, str],
        credentials: Mapping[str, str],
        gang: GangPart | None = None,
    ) -> None:
        """`env` are the request's variables with their secrets resolved.

        `gang` is the part of this node in a gang, None for the only node.
        """
        self._parts = parts
        self._request = request
        self._store = store
        self._env = env
        self._credentials = credentials
        self._gang = gang

    def run(self, prepared: Prepared) -> Outcome | None:
        """Run programs until one ends the attempt; return None if a later attempt owns the run.

        Raises EndedEarlyError if a stop is requested while no program runs, and RequestError if the
        program cannot be started.
        """
        parts = self._parts
        if self._gang is not None:
            # One node alone cannot start again from an earlier checkpoint.
            ended = self._run_program(prepared)
            return None if ended is None else ended.outcome
        if not self._request.evaluate.every_checkpoint:
            return self._train_until_done(prepared)
        evaluations = Evaluations(
            follow(parts.services, parts.settings, self._request, parts.progress, parts.wait),
            parts.preparation,
            progress=parts.progress,
            wait=parts.wait,
            run_program=self._run_program,
        )
        return evaluations.run(prepared)

    def _train_until_done(self, prepared: Prepared) -> Outcome | None:
        """Run the program, again from an earlier checkpoint if it dies of the one it was given."""
        fallback = self._make_fallback()
        while True:
            ended = self._run_program(prepared)
            if ended is None:
                return None
            result = fallback.after(ended, prepared)
            if not isinstance(result, Prepared):
                return result
            prepared = result

    def _run_program(self, prepared: Prepared) -> Ended | None:
        """Start a program from what was prepared, and supervise it until it has ended."""
        parts, restored = self._parts, prepared.restored
        parts.outcomes.step = None if restored is None else restored.manifest.step
        session = TrainingSession(
            self._session_context(),
            parts.runtime,
            build_contract(
                parts.settings,
                self._request,
                prepared,
                env=self._env,
                credentials=self._credentials,
                world=None if self._gang is None else self._gang.world,
            ),
            prepared=prepared,
            uptime=parts.preparation.read_uptime(),
            last_check=parts.wait.check,
        )
        supervision = Supervision(
            session,
            paths=parts.settings.paths,
            mailbox=parts.mailbox,
            progress=parts.progress,
            upload_outputs=parts.upload_outputs,
            mask=parts.mask,
        )
        if self._gang is not None:
            self._gang.began(session.program)
        try:
            outcome = supervision.run()
        finally:
            session.close()
            if self._gang is not None:
                self._gang.ended()
                # The next attempt may run in this process, and save from the same folder.
                session.saver.close()
        parts.outcomes.step = session.committer.step
        if outcome is None:
            return None
        return Ended(
            outcome=outcome,
            lived=session.program.lived,
            committer=session.committer,
            close=lambda: parts.wait.run_in_background(session.saver.close),
            has_other_cause=supervision.has_other_cause,
        )

    def _session_context(self) -> SessionContext:
        parts = self._parts
        return SessionContext(
            settings=parts.settings,
            request=self._request,
            ledger=parts.services.ledger,
            store=self._store,
            blobs=parts.services.blobs,
            outputs=parts.services.outputs(parts.settings.run_id),
            progress=parts.progress,
            mailbox=parts.mailbox,
            judge=parts.judge,
            peers=tuple if self._gang is None else self._gang.peers,
        )

    def _make_fallback(self) -> Fallback:
        parts, settings = self._parts, self._parts.settings
        return Fallback(
            Marks(parts.services.ledger, run_id=settings.run_id, attempt=settings.attempt),
            attempt=settings.attempt,
            mailbox=parts.mailbox,
            progress=parts.progress,
            restore_before=lambda prepared, tried: parts.wait.run_in_background(
                lambda: parts.preparation.restore_before(self._request, prepared, tried)
            ),
            outcome_of_stop=lambda code: parts.outcomes.stopped(exit_code=code),
        )
