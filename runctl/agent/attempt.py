"""The attempt runner: runs an attempt on its instance, from the first heartbeat to the report."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from runctl.agent.conclusion import make_conclusion
from runctl.agent.gang.assembly import join_gang
from runctl.agent.gang.rendezvous import ReadyNode
from runctl.agent.gang.stay import GangStay
from runctl.agent.instance.disk import count_up
from runctl.agent.instance.settings import Settings
from runctl.agent.parts import AttemptParts, OutcomeMaker
from runctl.agent.ports import Judge
from runctl.agent.prepare.container import ContainerPreparation
from runctl.agent.prepare.gpu_check import check_gpus
from runctl.agent.prepare.image import Images
from runctl.agent.prepare.preparation import Preparation
from runctl.agent.prepare.prepared import Prepared
from runctl.agent.prepare.subjects import SubjectLoader
from runctl.agent.processing.assembly import process_shards
from runctl.agent.reporting.final_report import FinalReport
from runctl.agent.reporting.node_heartbeat import make_heartbeat
from runctl.agent.reporting.progress import Progress
from runctl.agent.reporting.secret_mask import SecretMask
from runctl.agent.reporting.task_token import TaskToken
from runctl.agent.reporting.warm_offer import WarmOffer
from runctl.agent.runtime.engine import Engine
from runctl.agent.runtime.fence import prove_fence, require_fence
from runctl.agent.runtime.ports import Runtime
from runctl.agent.runtime.trainer_credentials import serve_credentials
from runctl.agent.runtime.trainer_secrets import TrainerSecrets
from runctl.agent.runtime.trainer_user import begin_anew, end_processes, find_user, user_of
from runctl.agent.serving.assembly import await_turn, serve
from runctl.agent.signals.mailbox import Mailbox
from runctl.agent.signals.waiting import CancellableWait, EndedEarlyError
from runctl.agent.training import Training
from runctl.aws.services import AwsServices
from runctl.model.errors import RequestError
from runctl.model.kinds import ENVIRONMENT, PROCESS, policy_of
from runctl.model.node import NodeProgress
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.request import RunRequest
from runctl.model.session_credentials import SessionCredentials

MAX_FAILURES = 3

logger = logging.getLogger(__name__)


class AttemptRunner:
    """Runs one attempt: prepares it, runs the session of its kind, and reports."""

    def __init__(
        self,
        settings: Settings,
        services: AwsServices,
        runtime_of: Callable[[Engine | None], Runtime],
        *,
        mailbox: Mailbox,
        session_of_trainer: Callable[[], SessionCredentials],
        judge: Judge,
        vendor: Path,
        mask: SecretMask,
        follow: Callable[[Path], None],
        earlier: NodeProgress,
    ) -> None:
        """`earlier` is what an earlier agent has reported of this node of a gang."""
        self._settings = settings
        self._services = services
        self._follow = follow
        self._session_of_trainer = session_of_trainer
        self._judge = judge
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
        self._containers = self._make_containers()
        self._store = services.checkpoints(settings.run_id, rank=settings.rank)
        self._preparation = self._make_preparation(vendor)
        self._token = TaskToken(
            services.ledger,
            run_id=settings.run_id,
            attempt=settings.attempt,
            instance_id=settings.instance_id,
            mailbox=mailbox,
            is_gang=settings.is_gang,
        )
        self._gang = join_gang(
            settings,
            services.ledger,
            mailbox=mailbox,
            progress=self._progress,
            wait=self._wait,
            earlier=earlier,
        )
        self._heartbeat = make_heartbeat(
            services.ledger,
            services.workflow,
            self._token,
            node=settings.node,
            lease=self._paths.lease,
            progress=self._progress,
            mailbox=mailbox,
            is_lead=None if self._gang is None else self._gang.is_lead,
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
        self._outcomes = OutcomeMaker(mailbox, mask.apply)
        self._conclusion = make_conclusion(
            settings,
            services,
            self._gang,
            final_report=self._final_report,
            heartbeat=self._heartbeat,
            mailbox=mailbox,
        )

    def _make_containers(self) -> ContainerPreparation:
        return ContainerPreparation(
            self._engine,
            Images(
                self._engine,
                self._services.ledger,
                self._services.blobs,
                secret_of=lambda text: self._secrets.fetch_text("docker.login", text),
                wait=self._wait,
                log=lambda: self._paths.trainer_output.open("a"),
            ),
            self._settings,
            progress=self._progress,
            wait=self._wait,
        )

    def _make_preparation(self, vendor: Path) -> Preparation:
        services, paths = self._services, self._paths
        return Preparation(
            services.ledger,
            services.blobs,
            services.versions(self._settings.run_id),
            self._store,
            self._settings,
            inputs=services.inputs,
            subjects=SubjectLoader(services.checkpoints, inputs=paths.inputs, state=paths.state),
            environments=services.environments,
            vendor=vendor,
            progress=self._progress,
            wait=self._wait,
        )

    @property
    def stay(self) -> WarmOffer | GangStay | None:
        """How this instance waits for another attempt, None if it does not."""
        return self._conclusion.stay

    def run(self) -> bool:
        """Run the attempt; return whether the instance should shut down now."""
        if self._final_report.was_sent():
            logger.info("the attempt was reported already")
            self._conclusion.repeat()
            return not self._paths.notice.exists()
        self._progress.mark("booted")
        if self._gang is not None:
            self._gang.start()
        self._heartbeat.start(self._preparation.prefetch)
        outcome = self._outcome()
        if self._runtime is not None:
            self._runtime.kill_all()
            end_processes(find_user(self._settings))
        self._conclusion.end(outcome)
        # After a notice EC2 takes the instance, and charges nothing in its first hour if we wait.
        return not self._conclusion.is_noticed()

    def finish_background_work(self) -> None:
        """Do the work that need not delay the report."""
        if self._runtime is not None:
            self._runtime.close()
        self._preparation.finish()

    def _outcome(self) -> Outcome | None:
        """Run it; return the outcome to report, or None if a later attempt owns the run."""
        try:
            return self._run_program()
        except EndedEarlyError:
            return self._outcomes.stopped()
        except RequestError as exc:
            logger.warning("the attempt cannot continue: %s", exc)
            return self._outcomes.failed(str(exc))
        except Exception as exc:
            # A defect, or an unexpected AWS error: the service restarts the agent a few times.
            logger.exception("the agent failed")
            if self._count_failure() < MAX_FAILURES:
                raise
            return self._outcomes.failed(
                f"the agent failed {MAX_FAILURES} times, last with {exc!r}"
            )

    def _run_program(self) -> Outcome | None:
        """Prepare, then run the programs of the request's kind."""
        require_fence(self._paths)
        run = self._preparation.read_run()
        request = run.request
        if self._gang is not None:
            self._gang.begin(request.gang)
            if (ended := self._gang.earlier_outcome) is not None:
                return ended
        self._conclusion.group = request.group
        self._secrets.expect(request.program.env)
        if output := request.evaluate.output_prefix:
            self._final_report.copy_outputs_to(
                self._services.outputs_at(output, self._settings.run_id)
            )
        user = user_of(self._settings, request)
        self._preparation.end_what_an_earlier_agent_left(request)
        self._containers.end_leftovers()
        begin_anew(find_user(self._settings), self._paths)
        self._preparation.run_as(user, request)
        container = self._containers.begin(run, user)
        runtime = self._runtime = self._runtime_of(None if container is None else self._engine)
        runtime.open()
        gpus = self._wait.start(lambda: check_gpus(self._settings))
        indexes = self._secrets.resolve_indexes(request.program.env)
        prepared = self._wait.run_in_background(
            lambda: self._preparation.prepare(
                request,
                generation=run.environment_generation,
                container=container,
                indexes=indexes,
                subject=run.subject,
            )
        )
        prove_fence(self._paths, user=user)
        self._wait.wait_until(gpus.done)
        gpus.result()
        return self._run_session(self._parts(runtime), request, prepared)

    def _run_session(
        self, parts: AttemptParts, request: RunRequest, prepared: Prepared
    ) -> Outcome | None:
        """Run the session of the request's kind; all but a service wait for the token."""
        is_service = policy_of(request.kind).becomes_ready
        if is_service:
            await_turn(parts)
        else:
            self._progress.enter("wait")
            self._wait.wait_until(self._token.has_arrived)
        if self._gang is not None:
            self._gang.await_turn()
        if request.kind == ENVIRONMENT:
            return self._store_environment()
        if request.kind != PROCESS and not is_service:
            prepared = self._wait.run_in_background(
                lambda: self._preparation.restore(request, prepared)
            )
        env = self._wait.run_in_background(lambda: self._secrets.resolve(request.program.env))
        with serve_credentials(
            request, self._session_of_trainer, progress=self._progress, wait=self._wait
        ) as credentials:
            if is_service:
                return serve(parts, request, prepared, env=env, credentials=credentials)
            if request.kind == PROCESS:
                run = self._preparation.read_run()
                return process_shards(parts, run, prepared, env=env, credentials=credentials)
            part = None
            if self._gang is not None:
                ready = ReadyNode(
                    request=request,
                    prepared=prepared,
                    env=env,
                    restore_before=partial(self._preparation.restore_before, request),
                )
                part = self._gang.meet(ready)
                prepared = part.prepared
            training = Training(
                parts, request, self._store, env=env, credentials=credentials, gang=part
            )
            return training.run(prepared)

    def _parts(self, runtime: Runtime) -> AttemptParts:
        return AttemptParts(
            settings=self._settings,
            services=self._services,
            preparation=self._preparation,
            runtime=runtime,
            judge=self._judge,
            mailbox=self._mailbox,
            wait=self._wait,
            progress=self._progress,
            outcomes=self._outcomes,
            mask=self._mask.apply,
            follow=self._follow,
            may_report=self._token.has_arrived,
            store_progress=self._heartbeat.store_progress,
            upload_outputs=self._final_report.upload_outputs,
        )

    def _store_environment(self) -> Outcome:
        """Wait until the environment is stored, which is all that such a run is for."""
        self._progress.enter("environment")
        if problem := self._wait.run_in_background(self._preparation.wait_until_stored):
            return self._outcomes.failed(f"the environment could not be stored: {problem}")
        return Outcome(kind=OutcomeKind.COMPLETED, reason="the environment is stored", exit_code=0)

    def _count_failure(self) -> int:
        try:
            return count_up(self._paths.failures)
        except OSError:
            return MAX_FAILURES  # without a count the restarts would never end
