"""The attempt runner: runs an attempt on its instance, from the first heartbeat to the report."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from runctl.agent.contract import build_contract
from runctl.agent.evaluations import Evaluations
from runctl.agent.fallback import Ended, Fallback
from runctl.agent.instance.disk import FULL, count_up
from runctl.agent.instance.settings import Settings
from runctl.agent.prepare.container import ContainerPreparation
from runctl.agent.prepare.following import follow
from runctl.agent.prepare.gpu_check import check_machine
from runctl.agent.prepare.image import Images
from runctl.agent.prepare.preparation import Preparation, Prepared
from runctl.agent.prepare.subjects import SubjectLoader
from runctl.agent.processing.assembly import AttemptParts, process_shards
from runctl.agent.program_outcome import failed_outcome, outcome_of_stop
from runctl.agent.reporting.final_report import FinalReport
from runctl.agent.reporting.heartbeat import Heartbeat
from runctl.agent.reporting.progress import Progress
from runctl.agent.reporting.secret_mask import SecretMask
from runctl.agent.reporting.task_token import TaskToken
from runctl.agent.reporting.warm_offer import WarmOffer
from runctl.agent.runtime.credentials import CredentialsEndpoint
from runctl.agent.runtime.engine import Engine
from runctl.agent.runtime.fence import prove_fence, require_fence
from runctl.agent.runtime.ports import Runtime
from runctl.agent.runtime.trainer_secrets import TrainerSecrets
from runctl.agent.saving.marks import Marks
from runctl.agent.serving.replacement import Replacement
from runctl.agent.serving.session import ServingSession
from runctl.agent.session import SessionContext, TrainingSession
from runctl.agent.signals.mailbox import Mailbox
from runctl.agent.signals.waiting import CHECK, CancellableWait, EndedEarlyError
from runctl.agent.supervision import Supervision
from runctl.aws.services import AwsServices
from runctl.model.errors import RefusedError, RequestError, RunctlError
from runctl.model.index_variables import index_variables
from runctl.model.kinds import ENVIRONMENT, PROCESS, policy_of
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.request import RunRequest
from runctl.model.secret_references import references_in
from runctl.policy.gpus import has_nvidia_gpus
from runctl.policy.warm import may_wait

MAX_FAILURES = 3

logger = logging.getLogger(__name__)


class AttemptRunner:
    """Runs one attempt: prepares, trains, falls back after a bad restore, and reports."""

    def __init__(
        self,
        settings: Settings,
        services: AwsServices,
        runtime_of: Callable[[Engine | None], Runtime],
        *,
        mailbox: Mailbox,
        vendor: Path,
        mask: SecretMask,
        follow: Callable[[Path], None],
    ) -> None:
        self._settings = settings
        self._services = services
        self._follow = follow
        self._runtime_of = runtime_of
        self._runtime: Runtime | None = None
        self._mailbox = mailbox
        self._paths = settings.paths
        self._progress = Progress()
        self._wait = CancellableWait(mailbox)
        self._mask = mask
        self._secrets = TrainerSecrets(
            services.secrets, mask=mask, wait=self._wait, progress=self._progress
        )
        self._engine = Engine(self._paths.docker_config, self._paths.docker_helpers)
        self._containers = ContainerPreparation(
            self._engine,
            Images(
                self._engine,
                services.ledger,
                services.blobs,
                secret_of=lambda text: self._secrets.fetch_text("docker.login", text),
                wait=self._wait,
                log=lambda: self._paths.trainer_output.open("a"),
            ),
            settings,
            progress=self._progress,
            wait=self._wait,
        )
        self._store = services.checkpoints(settings.run_id, rank=settings.rank)
        self._preparation = Preparation(
            services.ledger,
            services.blobs,
            services.versions(settings.run_id),
            self._store,
            settings,
            inputs=services.inputs,
            subjects=SubjectLoader(
                services.checkpoints, inputs=self._paths.inputs, state=self._paths.state
            ),
            environments=services.environments,
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
        self._heartbeat = Heartbeat(
            services.ledger,
            services.workflow,
            self._token,
            node=settings.node,
            lease=self._paths.lease,
            progress=self._progress,
            mailbox=mailbox,
        )
        self._final_report = FinalReport(
            services.workflow,
            services.ledger,
            services.outputs(settings.run_id),
            settings,
            token=self._token,
            heartbeat=self._heartbeat,
            progress=self._progress,
            mailbox=mailbox,
        )
        self._step: int | None = None
        self._group = ""
        self.offer: WarmOffer | None = None

    def run(self) -> bool:
        """Run the attempt; return whether the instance should shut down now."""
        if self._final_report.was_sent():
            logger.info("the attempt was reported already")
            self._find_group()
            self._make_offer()
            return not self._paths.notice.exists()
        self._progress.mark("booted")
        self._heartbeat.start(self._preparation.prefetch)
        outcome = self._outcome()
        if self._runtime is not None:
            self._runtime.kill_all()
        if may_wait(outcome):
            self._make_offer()
        if outcome is not None:
            self._final_report.send(outcome)
        self._heartbeat.stop()
        # After a notice EC2 takes the instance, and charges nothing in its first hour if we wait.
        return not self._is_noticed()

    def _find_group(self) -> None:
        """Find out whether an earlier agent has offered this instance to another run."""
        try:
            run = self._services.ledger.find_run(self._settings.run_id)
        except RunctlError as exc:
            logger.warning("the ledger cannot be read: %s", exc)
        else:
            self._group = "" if run is None else run.request.group

    def _make_offer(self) -> None:
        """Offer this instance to the next run of the group, unless EC2 takes it."""
        if not self._group or self._settings.is_existing_instance or self._is_noticed():
            return
        offer = WarmOffer(self._services.groups, self._settings, self._group)
        if offer.make():
            self.offer = offer

    def _is_noticed(self) -> bool:
        return self._mailbox.noticed_at is not None or self._paths.notice.exists()

    def finish_background_work(self) -> None:
        """Do the work that need not delay the report."""
        if self._runtime is not None:
            self._runtime.close()
        self._preparation.finish()

    def _outcome(self) -> Outcome | None:
        """Train; return the outcome to report, or None if a later attempt owns the run."""
        try:
            return self._train()
        except EndedEarlyError:
            return self._outcome_of_stop(exit_code=None)
        except RequestError as exc:
            logger.warning("the attempt cannot continue: %s", exc)
            return self._failed(str(exc))
        except Exception as exc:
            # A defect, or an unexpected AWS error: the service restarts the agent a few times.
            logger.exception("the agent failed")
            if self._count_failure() < MAX_FAILURES:
                raise
            return self._failed(f"the agent failed {MAX_FAILURES} times, last with {exc!r}")

    def _train(self) -> Outcome | None:
        """Prepare, then start programs until one ends the attempt."""
        require_fence(self._paths)
        run = self._preparation.read_run()
        request = run.request
        self._group = request.group
        self._secrets.expect(request.program.env)
        if output := request.evaluate.output_prefix:
            self._final_report.copy_outputs_to(
                self._services.outputs_at(output, self._settings.run_id)
            )
        self._preparation.end_what_an_earlier_agent_left(request)
        self._containers.end_leftovers()
        container = self._containers.begin(run)
        runtime = self._runtime = self._runtime_of(None if container is None else self._engine)
        runtime.open()
        gpus = self._wait.start(self._check_gpus)
        indexes = self._read_indexes(request)
        prepared = self._wait.run_in_background(
            lambda: self._preparation.prepare(
                request,
                generation=run.environment_generation,
                container=container,
                indexes=indexes,
                subject=run.subject,
            )
        )
        prove_fence(self._paths)
        self._wait.wait_until(gpus.done)
        gpus.result()
        if policy_of(request.kind).becomes_ready:
            return self._serve(runtime, request, prepared)
        self._progress.enter("wait")
        self._wait.wait_until(self._token.has_arrived)
        if request.kind == ENVIRONMENT:
            return self._store_environment()
        if request.kind != PROCESS:
            prepared = self._wait.run_in_background(
                lambda: self._preparation.restore(request, prepared)
            )
        env = self._wait.run_in_background(lambda: self._secrets.resolve(request.program.env))
        endpoint = self._serve_credentials(request)
        credentials = {} if endpoint is None else endpoint.as_environment()

        def run_program(prepared: Prepared) -> Ended | None:
            return self._train_from(runtime, request, prepared, env, credentials)

        try:
            if request.kind == PROCESS:
                run = self._preparation.read_run()
                return process_shards(
                    self._parts(runtime), run, prepared, env=env, credentials=credentials
                )
            if request.evaluate.every_checkpoint:
                evaluations = Evaluations(
                    follow(self._services, self._settings, request, self._progress, self._wait),
                    self._preparation,
                    progress=self._progress,
                    wait=self._wait,
                    run_program=run_program,
                )
                return evaluations.run(prepared)
            return self._train_until_done(request, prepared, run_program)
        finally:
            if endpoint is not None:
                endpoint.close()

    def _serve(self, runtime: Runtime, request: RunRequest, prepared: Prepared) -> Outcome | None:
        """Serve, also before the token arrives: the attempt before this one may still serve, too.

        Only that one: its neighbours in the order of the attempts never serve at the same time.
        """
        settings = self._settings
        self._progress.enter("wait")
        while self._preparation.read_run().fence < settings.attempt - 1:
            self._wait.pause(CHECK)
        env = self._wait.run_in_background(lambda: self._secrets.resolve(request.program.env))
        endpoint = self._serve_credentials(request)
        credentials = {} if endpoint is None else endpoint.as_environment()
        prepared.checkpoint.mkdir(parents=True, exist_ok=True)
        session = ServingSession(
            request.serve,
            runtime,
            make_contract=lambda port: build_contract(
                settings, request, prepared, env=env, credentials=credentials, port=port
            ),
            replacement=Replacement(
                self._services.ledger, run_id=settings.run_id, attempt=settings.attempt
            ),
            mailbox=self._mailbox,
            progress=self._progress,
            publish=self._publish,
            may_report=self._token.has_arrived,
            mask=self._mask.apply,
        )
        try:
            return session.run()
        finally:
            if endpoint is not None:
                endpoint.close()

    def _publish(self) -> None:
        """Store the progress; from the token's arrival on the heartbeat does."""
        if not self._token.has_arrived():
            self._heartbeat.store_progress()

    def _train_until_done(
        self,
        request: RunRequest,
        prepared: Prepared,
        run_program: Callable[[Prepared], Ended | None],
    ) -> Outcome | None:
        """Run the program, again from an earlier checkpoint if it dies of the one it was given."""
        fallback = self._make_fallback(request)
        while True:
            ended = run_program(prepared)
            if ended is None:
                return None
            result = fallback.after(ended, prepared)
            if not isinstance(result, Prepared):
                return result
            prepared = result

    def _parts(self, runtime: Runtime) -> AttemptParts:
        return AttemptParts(
            settings=self._settings,
            services=self._services,
            runtime=runtime,
            mailbox=self._mailbox,
            progress=self._progress,
            mask=self._mask.apply,
            follow=self._follow,
        )

    def _read_indexes(self, request: RunRequest) -> dict[str, str]:
        """Return the variables that name package indexes, with the secrets that they refer to."""
        named = index_variables(request.program.env)
        if not references_in(named):
            return named
        env = self._wait.run_in_background(lambda: self._secrets.resolve(request.program.env))
        return {name: env[name] for name in named}

    def _store_environment(self) -> Outcome:
        """Wait until the environment is stored, which is all that such a run is for."""
        self._progress.enter("environment")
        if problem := self._wait.run_in_background(self._preparation.wait_until_stored):
            return self._failed(f"the environment could not be stored: {problem}")
        return Outcome(kind=OutcomeKind.COMPLETED, reason="the environment is stored", exit_code=0)

    def _train_from(
        self,
        runtime: Runtime,
        request: RunRequest,
        prepared: Prepared,
        env: Mapping[str, str],
        credentials: Mapping[str, str],
    ) -> Ended | None:
        """Start a program from what was prepared, and supervise it until it has ended."""
        restored = prepared.restored
        self._step = None if restored is None else restored.manifest.step
        session = TrainingSession(
            self._session_context(request),
            runtime,
            build_contract(self._settings, request, prepared, env=env, credentials=credentials),
            prepared=prepared,
            uptime=self._preparation.read_uptime(),
            last_check=self._wait.check,
        )
        supervision = Supervision(
            session,
            paths=self._paths,
            mailbox=self._mailbox,
            progress=self._progress,
            upload_outputs=self._final_report.upload_outputs,
            mask=self._mask.apply,
        )
        try:
            outcome = supervision.run()
        finally:
            session.close()
        self._step = session.committer.step
        if outcome is None:
            return None
        return Ended(
            outcome=outcome,
            lived=session.program.lived,
            committer=session.committer,
            close=lambda: self._wait.run_in_background(session.saver.close),
            has_other_cause=supervision.has_other_cause,
        )

    def _check_gpus(self) -> None:
        """Raise RequestError if this machine should have GPUs and shows none."""
        # Below another root, as on the local cloud, a machine has none whatever its type.
        if has_nvidia_gpus(self._settings.instance_type) and self._paths.root == Path("/"):
            check_machine(os.environ, self._settings.instance_type)

    def _session_context(self, request: RunRequest) -> SessionContext:
        return SessionContext(
            settings=self._settings,
            request=request,
            ledger=self._services.ledger,
            store=self._store,
            blobs=self._services.blobs,
            outputs=self._services.outputs(self._settings.run_id),
            progress=self._progress,
            mailbox=self._mailbox,
            judge=self._services.trial_judge,
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
            outcome_of_stop=lambda code: self._outcome_of_stop(exit_code=code),
        )

    def _serve_credentials(self, request: RunRequest) -> CredentialsEndpoint | None:
        """Start the endpoint where a trainer gets the credentials that it requested."""
        if not request.wants_credentials:
            return None
        settings = self._settings
        if not settings.trainer_role:
            raise RequestError(
                "credentials: the deployment has no role for trainers; update it with "
                "`runctl deploy`"
            )
        access = self._services.trainer_access(
            settings.trainer_role, run_id=settings.run_id, attempt=settings.attempt
        )
        endpoint = CredentialsEndpoint(access.fetch, progress=self._progress)
        try:
            self._wait.retry(endpoint.start)
        except RefusedError as exc:
            raise RequestError(f"credentials: the trainer's role cannot be assumed: {exc}") from exc
        return endpoint

    def _outcome_of_stop(self, *, exit_code: int | None) -> Outcome | None:
        return outcome_of_stop(self._mailbox.ending, exit_code=exit_code, step=self._step)

    def _failed(self, reason: str) -> Outcome:
        # Preparation reports it in its own words, and pip, uv and the engine in the system's.
        is_disk_full = FULL in reason
        return failed_outcome(
            reason, mask=self._mask.apply, step=self._step, is_disk_full=is_disk_full
        )

    def _count_failure(self) -> int:
        try:
            return count_up(self._paths.failures)
        except OSError:
            return MAX_FAILURES  # without a count the restarts would never end
