"""The life of an attempt on its instance, from the first instruction to the last."""

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from runctl.agent.drain import RESERVE, drain, grace_of
from runctl.agent.fallback import Ended, Fallback
from runctl.agent.instance import processes
from runctl.agent.instance.disk import count_up, is_full, room
from runctl.agent.instance.settings import Settings
from runctl.agent.prepare.code import explain_missing_file
from runctl.agent.prepare.preparation import Preparation, Prepared
from runctl.agent.reporting.final_report import FinalReport
from runctl.agent.reporting.heartbeat import Heartbeat
from runctl.agent.reporting.progress import Progress
from runctl.agent.reporting.secret_mask import SecretMask
from runctl.agent.reporting.task_token import TaskToken
from runctl.agent.runtime.credentials import CredentialsEndpoint
from runctl.agent.runtime.fence import prove_fence, require_fence
from runctl.agent.runtime.leftovers import await_writers, daemon_among
from runctl.agent.runtime.observer import TrainerObserver
from runctl.agent.runtime.signal_trace import SignalTrace
from runctl.agent.runtime.trainer import Trainer
from runctl.agent.runtime.trainer_secrets import TrainerSecrets
from runctl.agent.saving.marks import Marks
from runctl.agent.session import TrainingSession
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.agent.signals.waiting import CHECK, CancellableWait, EndedEarlyError
from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.secret_values import SecretValues
from runctl.aws.trainer_access import TrainerAccess
from runctl.aws.workflow import StepFunctions
from runctl.model.agent_ledger import AgentLedger
from runctl.model.errors import RefusedError, RequestError
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.request import RunRequest

FINAL_UPLOAD = timedelta(minutes=10)
FLUSH = timedelta(seconds=10)
MAX_FAILURES = 3
MAX_NAMES_SHOWN = 3
IN_BACKGROUND = (
    "the trainer exited with 0, but left process {daemon} running in the background, which was "
    "ended with it; run it in the foreground: without `&`, nohup, setsid or a daemon option"
)
ENDED_BY_OTHERS = frozenset(
    {-signal.SIGTERM, -signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGKILL}
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the attempt's life needs of AWS; `client` makes those clients that few attempts need."""

    ledger: AgentLedger
    s3: Any
    stepfunctions: Any
    client: Callable[[str], Any]


class AttemptRunner:
    """One attempt. `live` runs it and says whether the instance should shut down."""

    def __init__(
        self,
        settings: Settings,
        services: Services,
        *,
        mailbox: Mailbox,
        vendor: Path,
        mask: SecretMask,
    ) -> None:
        self._settings = settings
        self._services = services
        self._mailbox = mailbox
        self._paths = settings.paths
        self._progress = Progress()
        self._wait = CancellableWait(mailbox)
        self._mask = mask
        self._secrets = TrainerSecrets(
            SecretValues(services.client, region=settings.region),
            mask=mask,
            wait=self._wait,
            progress=self._progress,
        )
        self._store = CheckpointStore(services.s3, bucket=settings.bucket, run_id=settings.run_id)
        self._preparation = Preparation(
            services.ledger,
            services.s3,
            self._store,
            settings,
            vendor=vendor,
            progress=self._progress,
            wait=self._wait,
        )
        self._token = TaskToken(
            services.ledger,
            run_id=settings.run_id,
            attempt=settings.attempt,
            instance_id=settings.instance_id,
            mailbox=mailbox,
        )
        workflow = StepFunctions(services.stepfunctions)
        self._heartbeat = Heartbeat(
            services.ledger,
            workflow,
            self._token,
            run_id=settings.run_id,
            attempt=settings.attempt,
            lease=self._paths.lease,
            progress=self._progress,
            mailbox=mailbox,
        )
        self._final_report = FinalReport(
            workflow,
            services.s3,
            settings,
            token=self._token,
            heartbeat=self._heartbeat,
            progress=self._progress,
            mailbox=mailbox,
        )
        self._step: int | None = None
        self._trace = SignalTrace()
        self._observer = TrainerObserver(self._progress, self._trace)

    def live(self) -> bool:
        """Run the attempt; return whether the instance should shut down now."""
        if self._final_report.was_sent():
            logger.info("the attempt was reported already")
            return not self._paths.notice.exists()
        self._progress.mark("booted")
        self._heartbeat.start(self._preparation.prefetch)
        self._trace.start()
        try:
            outcome = self._train()
        except EndedEarlyError:
            outcome = self._outcome_of_ending(exit_code=None)
        except RequestError as exc:
            logger.warning("the attempt cannot go on: %s", exc)
            outcome = self._failed(str(exc))
        except Exception as exc:
            # A defect, or an AWS error nobody foresaw: the service starts us again, for a while.
            logger.exception("the agent failed")
            if self._count_failure() < MAX_FAILURES:
                raise
            outcome = self._failed(f"the agent failed {MAX_FAILURES} times, last with {exc!r}")
        processes.end_tree(os.getpid())
        if outcome is not None:
            self._final_report.send(outcome)
        self._heartbeat.stop()
        # After a notice EC2 takes the instance, and charges nothing in its first hour if we wait.
        return self._mailbox.noticed_at is None and not self._paths.notice.exists()

    def finish_background_work(self) -> None:
        """Do what need not hold up the report."""
        self._trace.stop()
        self._preparation.finish()

    def _train(self) -> Outcome | None:
        require_fence(self._paths)
        request = self._preparation.read_run().request
        self._secrets.expect(request.program.env)
        self._preparation.end_what_an_earlier_agent_left(request)
        prepared = self._wait.run_in_background(lambda: self._preparation.prepare(request))
        prove_fence(self._paths)
        self._progress.enter("wait")
        self._wait.wait_until(self._token.has_arrived)
        prepared = self._wait.run_in_background(
            lambda: self._preparation.restore(request, prepared)
        )
        env = self._wait.run_in_background(lambda: self._secrets.resolve(request.program.env))
        lent = self._lend_credentials(request)
        credentials = {} if lent is None else lent.as_environment()
        fallback = self._make_fallback(request)
        try:
            while True:
                ended = self._train_from(request, prepared, env, credentials)
                if ended is None:
                    return None
                follows = fallback.after(ended, prepared)
                if not isinstance(follows, Prepared):
                    return follows
                prepared = follows
        finally:
            if lent is not None:
                lent.close()

    def _train_from(
        self,
        request: RunRequest,
        prepared: Prepared,
        env: Mapping[str, str],
        credentials: Mapping[str, str],
    ) -> Ended | None:
        """Start a trainer on what was restored and see it through to its end."""
        restored = prepared.restored
        self._step = None if restored is None else restored.manifest.step
        session = TrainingSession(
            self._services.ledger,
            self._services.s3,
            self._store,
            self._settings,
            request=request,
            prepared=prepared,
            seen=self._preparation.read_uptime(),
            progress=self._progress,
            mailbox=self._mailbox,
            env=env,
            credentials=credentials,
        )
        self._observer = TrainerObserver(self._progress, self._trace)
        self._observer.start()
        try:
            trainer = session.start(last_check=self._wait.check)
            try:
                outcome = self._supervise(request, trainer, session)
            finally:
                session.metrics.stop(within=FLUSH)
        finally:
            self._observer.stop()
        if outcome is None:
            return None
        return Ended(
            outcome=outcome,
            lived=trainer.lived,
            committer=session.committer,
            close=lambda: self._wait.run_in_background(session.saver.close),
            has_other_cause=is_full(self._paths.state) or bool(self._observer.memory_text),
        )

    def _make_fallback(self, request: RunRequest) -> Fallback:
        settings = self._settings
        return Fallback(
            Marks(self._services.ledger, run_id=settings.run_id, attempt=settings.attempt),
            attempt=settings.attempt,
            mailbox=self._mailbox,
            progress=self._progress,
            restore_before=lambda prepared, tried: self._wait.run_in_background(
                lambda: self._preparation.restore_before(request, prepared, tried)
            ),
            outcome_of_ending=lambda code: self._outcome_of_ending(exit_code=code),
        )

    def _lend_credentials(self, request: RunRequest) -> CredentialsEndpoint | None:
        """Open the endpoint where the trainer gets its run's credentials, if it asked for them."""
        if not request.wants_credentials:
            return None
        settings = self._settings
        if not settings.trainer_role:
            raise RequestError(
                "credentials: the deployment has no role for trainers; deploy this version of it"
            )
        access = TrainerAccess(
            self._services.client("sts"),
            role_arn=settings.trainer_role,
            bucket=settings.bucket,
            run_id=settings.run_id,
            attempt=settings.attempt,
        )
        endpoint = CredentialsEndpoint(access.fetch, progress=self._progress)
        try:
            self._wait.retry(endpoint.start)
        except RefusedError as exc:
            raise RequestError(f"credentials: the trainer cannot be given any: {exc}") from exc
        return endpoint

    def _supervise(
        self, request: RunRequest, trainer: Trainer, session: TrainingSession
    ) -> Outcome | None:
        """Wait for the trainer's exit or for an end that was asked for, whichever is first."""
        self._observer.look(trainer)
        while trainer.is_running() and self._mailbox.ending is None:
            self._mailbox.wait(CHECK.total_seconds())
            self._observer.look(trainer)
            if self._mailbox.take_checkpoint_request():
                session.ask_for_checkpoint()
            session.check_schedule()
            self._progress.warn(self._mailbox.announced, about="maintenance")
        ending = self._mailbox.ending
        if not trainer.is_running():
            return self._after_exit(trainer, session)
        if ending is None:
            raise AssertionError("woken up for nothing")
        return self._after_ending(request, ending, trainer, session)

    def _after_exit(self, trainer: Trainer, session: TrainingSession) -> Outcome | None:
        self._progress.mark("exited")
        logger.info("the trainer exited by itself with %s", trainer.exit_code)
        exited_at = time.monotonic()
        until = exited_at + FINAL_UPLOAD.total_seconds()
        left = await_writers(session.watcher.folder, lambda: self._must_end(session, until))
        daemon = self._observer.went_on_as(
            daemon_among(left, since_exit=time.monotonic() - exited_at)
        )
        killed = trainer.end_family(session.watcher.folder)
        self._progress.enter("upload")
        code = trainer.exit_code or 0
        if code in ENDED_BY_OTHERS:
            # A shutdown's SIGTERM may reach the trainer a moment before we hear of it.
            self._mailbox.wait(CHECK.total_seconds())
        ending = self._mailbox.ending
        deadline = None if ending is None else ending.deadline_at
        until = time.monotonic() + FINAL_UPLOAD.total_seconds()
        if deadline is not None:
            until = min(until, deadline)
        saved = session.saver.finish(
            until=until,
            torn=killed.torn,
            abrupt=trainer.died_of_a_fault() or trainer.died_unaware() or bool(killed.writers),
        )
        self._step = session.committer.step
        if self._mailbox.is_fenced:
            return None
        problem = self._final_report.upload_outputs(until)
        ending = self._mailbox.ending
        # In a shutdown systemd sends SIGTERM to the trainer's scope too, and who knows it may save
        # and exit 0 mid-way, before we hear of it: the next attempt finds out.
        if ending is not None and (code in ENDED_BY_OTHERS or ending.cause is StopCause.SHUTDOWN):
            return self._outcome_of_ending(exit_code=code)
        sender = self._observer.stop_request(trainer, helper_was_asked=session.was_asked_to_stop)
        if sender:
            return Outcome(
                kind=OutcomeKind.INTERRUPTED, reason=sender, exit_code=code, step=self._step
            )
        hidden = self._observer.failure_in_pipe(trainer) if code == 0 else None
        if hidden is not None:
            return self._failed(self._failure_text(trainer, *hidden), exit_code=hidden[0])
        if code != 0:
            status = f"exit code {code}" if code > 0 else f"ended by signal {-code}"
            return self._failed(self._failure_text(trainer, code, status), exit_code=code)
        if daemon is not None:
            return self._failed(IN_BACKGROUND.format(daemon=daemon), exit_code=code)
        if killed.torn and ending is not None:
            return self._outcome_of_ending(exit_code=code)
        return self._after_success(torn=killed.torn, saved=saved, outputs_problem=problem)

    def _failure_text(self, trainer: Trainer, code: int, status: str) -> str:
        """Return how the trainer failed: status, likely causes, its last words."""
        if memory := self._observer.memory_text:
            status += f" ({memory})"
        elif code == -signal.SIGKILL:
            status += " (out of memory?)"
        if is_full(self._paths.state):
            status += f" (the instance's disk is full, {room(self._paths.state)})"
        words = trainer.last_words()
        if missing := explain_missing_file(words, self._paths.project):
            status += f" ({missing})"
        return f"{status}: {words}" if words else status

    def _after_success(self, *, torn: frozenset[str], saved: bool, outputs_problem: str) -> Outcome:
        """Return the outcome of a trainer that exited with 0: its results must be stored, too."""
        if torn:
            names = ", ".join(sorted(torn)[:MAX_NAMES_SHOWN])
            return self._failed(
                f"the trainer is done, but {names} was still being written "
                f"{FINAL_UPLOAD.total_seconds() / 60:.0f} minutes later",
                exit_code=0,
            )
        if not saved:
            return self._failed("the trainer is done, but its last checkpoint could not be saved")
        if outputs_problem:
            return self._failed(f"the trainer is done, but {outputs_problem}", exit_code=0)
        return Outcome(kind=OutcomeKind.COMPLETED, exit_code=0, step=self._step)

    def _must_end(self, session: TrainingSession, until: float) -> bool:
        """Whether what the trainer left running can be waited for no longer."""
        if self._mailbox.is_fenced or time.monotonic() >= until:
            return True
        ending = self._mailbox.ending
        left = None if ending is None else ending.time_left()
        return left is not None and left <= RESERVE + session.saver.expected_upload_time()

    def _after_ending(
        self, request: RunRequest, ending: StopRequest, trainer: Trainer, session: TrainingSession
    ) -> Outcome | None:
        self._progress.mark("detected", ending.detected)
        if ending.cause is StopCause.FENCED:
            logger.info("leaving without a trace: %s", ending.reason)
            session.saver.abandon()
            trainer.end_family()
            return None
        grace = grace_of(
            asked=timedelta(seconds=request.saving.checkpoint.grace_seconds),
            upload_time=session.saver.expected_upload_time(),
            left=ending.time_left(),
        )
        drain(
            trainer,
            session.watcher,
            session.saver,
            self._mailbox,
            grace=grace,
            progress=self._progress,
        )
        self._step = session.committer.step
        return self._outcome_of_ending(exit_code=trainer.exit_code)

    def _outcome_of_ending(self, *, exit_code: int | None) -> Outcome | None:
        ending = self._mailbox.ending
        if ending is None or ending.cause is StopCause.FENCED:
            return None
        stopped = ending.cause is StopCause.STOP
        return Outcome(
            kind=OutcomeKind.STOPPED if stopped else OutcomeKind.INTERRUPTED,
            reason=ending.reason,
            exit_code=exit_code,
            step=self._step,
        )

    def _failed(self, reason: str, *, exit_code: int | None = None) -> Outcome:
        # Before it is shortened: a value that is cut off would not be known.
        return Outcome(
            kind=OutcomeKind.FAILED,
            reason=self._mask.apply(reason),
            exit_code=exit_code,
            step=self._step,
        )

    def _count_failure(self) -> int:
        try:
            return count_up(self._paths.failures)
        except OSError:
            return MAX_FAILURES  # nobody would know how often, so it would never end
