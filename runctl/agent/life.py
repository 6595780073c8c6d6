"""The life of an attempt on its instance, from the first instruction to the last."""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from runctl.agent import processes
from runctl.agent.code import fetch_code
from runctl.agent.dependencies import find_dependencies
from runctl.agent.drain import drain, ended_orderly, grace_of
from runctl.agent.environment import Environments, find_tools
from runctl.agent.heartbeat import Heartbeat
from runctl.agent.inbox import Cause, Ending, Inbox
from runctl.agent.keeper import Keeper
from runctl.agent.metrics import MetricsShipper
from runctl.agent.outputs import upload_outputs
from runctl.agent.ports import AgentLedger
from runctl.agent.progress import Progress
from runctl.agent.report import report
from runctl.agent.restore import Fetched, Restorer, clear
from runctl.agent.settings import Settings
from runctl.agent.snapshot import Settling
from runctl.agent.trainer import (
    Contract,
    Trainer,
    base_environment,
    trainer_command,
    trainer_environment,
)
from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.workflow import StepFunctions
from runctl.model.errors import DamagedCheckpointError, RequestError, RunctlError, TransientError
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.request import RunRequest

RETRY = timedelta(seconds=2)
CHECK = 1.0
REPORT_WITHIN = timedelta(minutes=5)
FINAL_UPLOAD = timedelta(minutes=10)
FLUSH = timedelta(seconds=10)
CACHE_WAIT = 60.0
MOST_FAILURES = 3
ENDED_BY_OTHERS = frozenset(
    {-signal.SIGTERM, -signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGKILL}
)
LONGEST_REASON = 1000

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the attempt's life needs of AWS."""

    ledger: AgentLedger
    s3: Any
    stepfunctions: Any


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that can be made ready before the token is there."""

    script: str
    environment: Path


class _EndedEarlyError(Exception):
    """An end was asked for before the trainer was started."""


class Life:
    """One attempt. `live` runs it and says whether the instance should shut down."""

    def __init__(
        self,
        settings: Settings,
        services: Services,
        *,
        inbox: Inbox,
        vendor: Path,
        tune: Callable[[Settling], None] = lambda _settling: None,
    ) -> None:
        self._settings = settings
        self._services = services
        self._inbox = inbox
        self._vendor = vendor
        self._tune = tune
        self._paths = settings.paths
        self._progress = Progress()
        self._store = CheckpointStore(services.s3, bucket=settings.bucket, run_id=settings.run_id)
        self._restorer = Restorer(self._store, self._paths.state / "incoming")
        self._workflow = StepFunctions(services.stepfunctions)
        self._heartbeat = Heartbeat(
            services.ledger,
            services.stepfunctions,
            run_id=settings.run_id,
            attempt=settings.attempt,
            lease=self._paths.lease,
            progress=self._progress,
            inbox=inbox,
        )
        self._environments: Environments | None = None
        self._newest: str | None = None
        self._step: int | None = None

    def live(self) -> bool:
        """Run the attempt; return whether the instance should shut down now."""
        if self._reported.exists():
            logger.info("the attempt was reported already")
            return not self._paths.notice.exists()
        self._progress.mark("booted")
        self._heartbeat.start(self._prefetch)
        try:
            outcome = self._train()
        except _EndedEarlyError:
            outcome = self._outcome_of_ending(exit_code=None)
        except RequestError as exc:
            outcome = self._failed(str(exc))
        except Exception as exc:
            # A defect, or an AWS error nobody foresaw: the service starts us again, for a while.
            logger.exception("the agent failed")
            if self._count_failure() < MOST_FAILURES:
                raise
            outcome = self._failed(f"the agent failed {MOST_FAILURES} times, last with {exc!r}")
        processes.end_tree(os.getpid())
        if outcome is not None:
            self._tell(outcome)
        self._heartbeat.stop()
        ending = self._inbox.ending
        # After a notice EC2 takes the instance, and charges nothing in its first hour if we wait.
        noticed = ending is not None and ending.cause is Cause.NOTICE
        return not noticed and not self._paths.notice.exists()

    def finish_background_work(self) -> None:
        """Give a new environment time to reach the cache: the next attempt is that much quicker."""
        if self._environments is not None:
            self._environments.finish(CACHE_WAIT)

    # The sequence.

    def _train(self) -> Outcome | None:
        request = self._read_request()
        self._end_what_an_earlier_agent_left(request)
        prepared = self._await(self._start_job(lambda: self._prepare(request)))
        self._await_token()
        restored = self._await(self._start_job(lambda: self._restore(request)))
        metrics = self._metrics()
        keeper, trainer = self._start(request, prepared, restored)
        metrics.start()
        try:
            return self._accompany(request, trainer, keeper)
        finally:
            metrics.stop(within=FLUSH)

    def _read_request(self) -> RunRequest:
        while True:
            try:
                run = self._services.ledger.find_run(self._settings.run_id)
            except (RunctlError, ClientError, BotoCoreError) as exc:
                # Also permissions that have not spread yet: a new role's take a few seconds.
                logger.warning("the ledger cannot be read for now: %s", exc)
                run = None
            if run is not None:
                self._step = run.step
                return run.request
            self._pause(RETRY)

    def _prepare(self, request: RunRequest) -> Prepared:
        self._progress.enter("environment")
        script = self._retry(lambda: fetch_code(self._services.s3, request, self._paths.project))
        declared = find_dependencies(self._paths.project, script)
        self._environments = Environments(
            self._services.s3,
            self._paths.state / "environments",
            bucket=self._settings.bucket,
            tools=find_tools(self._vendor, base_environment(os.environ)),
            log=lambda: self._output.open("a"),
        )
        return Prepared(script=script, environment=self._environments.prepare(declared))

    def _await_token(self) -> None:
        self._progress.enter("wait")
        while not self._heartbeat.has_token():
            self._pause(timedelta(seconds=CHECK))

    def _restore(self, request: RunRequest) -> Fetched | None:
        """Put the newest whole checkpoint in place; only now it is certain which that is."""
        self._progress.enter("restore")
        folder = self._checkpoint_folder(request)
        run = self._retry(lambda: self._services.ledger.find_run(self._settings.run_id))
        folder.mkdir(parents=True, exist_ok=True)
        if run is None or run.newest is None:
            if not request.checkpoint.dir:
                clear(folder)
            return None
        newest = run.newest
        try:
            fetched = self._retry(lambda: self._restorer.fetch(newest))
        except DamagedCheckpointError as exc:
            raise RequestError(f"no checkpoint of the run can be restored: {exc}") from exc
        self._restorer.put_in_place(fetched.manifest, folder)
        self._step = fetched.manifest.step
        self._progress.resume_from(fetched.manifest.step)
        self._progress.mark("restored")
        logger.info("restored step %d from %s", fetched.manifest.step, fetched.key)
        return fetched

    def _start(
        self, request: RunRequest, prepared: Prepared, restored: Fetched | None
    ) -> tuple[Keeper, Trainer]:
        state, folder = self._paths.state, self._checkpoint_folder(request)
        contract = Contract(
            run_id=self._settings.run_id,
            attempt=self._settings.attempt,
            resume_step=None if restored is None else restored.manifest.step,
            checkpoint=folder,
            inputs=state / "input",
            outputs=state / "output",
            metrics=self._metrics_file,
            checkpoint_request=self._paths.runtime / "checkpoint-request",
            saved=self._paths.runtime / "saved.jsonl",
        )
        for path in (contract.saved, contract.checkpoint_request):
            path.unlink(missing_ok=True)
        running: list[Trainer] = []
        keeper = Keeper(
            self._services.ledger,
            self._store,
            run_id=self._settings.run_id,
            attempt=self._settings.attempt,
            folder=folder,
            pins=state / "pins",
            saved=contract.saved,
            keep_last=request.checkpoint.keep_last,
            family=lambda: running[0].family() if running else [],
            leader=lambda: running[0].pid if running else 0,
            progress=self._progress,
            inbox=self._inbox,
            tune=self._tune,
        )
        if restored is not None:
            keeper.begin_from(restored)
        environ = trainer_environment(
            os.environ,
            request=request,
            contract=contract,
            environment=prepared.environment,
            project=self._paths.project,
        )
        command = trainer_command(
            request, prepared.script, project=self._paths.project, environment=prepared.environment
        )
        if self._inbox.ending is not None:
            raise _EndedEarlyError
        trainer = Trainer(
            command,
            environ=environ,
            cwd=self._paths.project,
            output=self._output,
            errors=self._errors,
            on_exit=self._inbox.nudge,
        )
        running.append(trainer)
        keeper.start()
        self._progress.mark("started")
        self._progress.enter("train")
        logger.info("the trainer is running")
        return keeper, trainer

    def _accompany(self, request: RunRequest, trainer: Trainer, keeper: Keeper) -> Outcome | None:
        """Wait for the trainer's exit or for an end that was asked for, whichever is first."""
        while trainer.is_running() and self._inbox.ending is None:
            self._inbox.wait(CHECK)
            if self._inbox.take_checkpoint_request():
                self._ask_for_checkpoint(trainer, keeper)
        ending = self._inbox.ending
        if not trainer.is_running():
            return self._after_exit(trainer, keeper)
        if ending is None:
            raise AssertionError("woken up for nothing")
        return self._after_ending(request, ending, trainer, keeper)

    def _after_exit(self, trainer: Trainer, keeper: Keeper) -> Outcome | None:
        self._progress.mark("exited")
        logger.info("the trainer exited by itself with %s", trainer.exit_code)
        trainer.end_family()
        self._progress.enter("upload")
        code = trainer.exit_code or 0
        if code in ENDED_BY_OTHERS:
            # A shutdown's SIGTERM may reach the trainer a moment before we hear of it.
            self._inbox.wait(CHECK)
        deadline = self._inbox.ending.deadline if self._inbox.ending else None
        until = time.monotonic() + FINAL_UPLOAD.total_seconds()
        if deadline is not None:
            until = min(until, time.monotonic() + _left(deadline))
        saved = keeper.finish(orderly=ended_orderly(trainer), until=until)
        self._step = keeper.step
        if self._inbox.is_fenced:
            return None
        problem = self._upload_outputs(until)
        if code in ENDED_BY_OTHERS and self._inbox.ending is not None:
            return self._outcome_of_ending(exit_code=code)
        if code != 0:
            told = f"exit code {code}" if code > 0 else f"ended by signal {-code}"
            if code == -signal.SIGKILL:
                told += " (out of memory?)"
            words = trainer.last_words()
            reason = f"{told}: {words}" if words else told
            return self._failed(reason, exit_code=code)
        if not saved:
            return self._failed("the trainer is done, but its last checkpoint could not be saved")
        if problem:
            return self._failed(f"the trainer is done, but {problem}", exit_code=code)
        return Outcome(kind=OutcomeKind.COMPLETED, exit_code=code, step=self._step)

    def _after_ending(
        self, request: RunRequest, ending: Ending, trainer: Trainer, keeper: Keeper
    ) -> Outcome | None:
        self._progress.mark("detected", ending.detected)
        if ending.cause is Cause.FENCED:
            logger.info("leaving without a trace: %s", ending.reason)
            keeper.abandon()
            trainer.end_family()
            return None
        grace = grace_of(
            ending,
            asked=timedelta(seconds=request.checkpoint.grace_seconds),
            upload_time=keeper.expected_upload_time(),
            now=datetime.now(timezone.utc),
        )
        drain(
            trainer,
            keeper,
            ending,
            grace=grace,
            progress=self._progress,
            is_fenced=lambda: self._inbox.is_fenced,
        )
        self._step = keeper.step
        return self._outcome_of_ending(exit_code=trainer.exit_code)

    # The pieces.

    def _outcome_of_ending(self, *, exit_code: int | None) -> Outcome | None:
        ending = self._inbox.ending
        if ending is None or ending.cause is Cause.FENCED:
            return None
        stopped = ending.cause is Cause.STOP
        return Outcome(
            kind=OutcomeKind.STOPPED if stopped else OutcomeKind.INTERRUPTED,
            reason=ending.reason,
            exit_code=exit_code,
            step=self._step,
        )

    def _failed(self, reason: str, *, exit_code: int | None = None) -> Outcome:
        return Outcome(
            kind=OutcomeKind.FAILED,
            reason=reason[:LONGEST_REASON],
            exit_code=exit_code,
            step=self._step,
        )

    def _tell(self, outcome: Outcome) -> None:
        """Store the last instants, then report: after the report the fence may move any moment."""
        self._progress.enter("done")
        self._await_token_to_report(outcome)
        if self._heartbeat.has_token():
            self._heartbeat.tell_now()
        ending = self._inbox.ending
        within = REPORT_WITHIN
        if ending is not None and ending.deadline is not None:
            within = min(within, timedelta(seconds=max(_left(ending.deadline), 0)))
        if report(self._workflow, self._heartbeat, outcome, within=within):
            self._reported.touch()
        if outcome.kind in {OutcomeKind.INTERRUPTED, OutcomeKind.STOPPED}:
            # What matters is safe; the outputs so far are taken as long as we live.
            self._upload_outputs(time.monotonic() + within.total_seconds())

    def _upload_outputs(self, until: float) -> str:
        """Upload the outputs; return what went wrong, or an empty text."""
        while True:
            try:
                upload_outputs(
                    self._services.s3,
                    self._paths.state / "output",
                    bucket=self._settings.bucket,
                    run_id=self._settings.run_id,
                    until=until,
                )
            except TransientError as exc:
                logger.warning("%s", exc)
                if time.monotonic() + RETRY.total_seconds() > until or self._inbox.ending:
                    return str(exc)
                time.sleep(RETRY.total_seconds())
            else:
                return ""

    def _ask_for_checkpoint(self, trainer: Trainer, keeper: Keeper) -> None:
        """Ask the trainer's helper to save; one without the helper goes on undisturbed."""
        request = self._paths.runtime / "checkpoint-request"
        request.write_text(json.dumps({"at": datetime.now(timezone.utc).isoformat()}))
        if trainer.is_running() and not keeper.has_helper:
            self._progress.warn(
                "a checkpoint was asked for; a trainer without runctl's helper saves when it does, "
                "and what is on disk is uploaded"
            )

    def _end_what_an_earlier_agent_left(self, request: RunRequest) -> None:
        folder = self._checkpoint_folder(request)
        if killed := processes.end_leftovers(f"RUNCTL_CHECKPOINT_DIR={folder}"):
            logger.warning("ended %d processes that an earlier agent left", len(killed))
        self._metrics_file.unlink(missing_ok=True)

    def _prefetch(self, newest: str) -> None:
        """Fetch the newest checkpoint ahead of the token, in the background, each only once."""
        if newest == self._newest:
            return
        self._newest = newest

        def fetch() -> None:
            try:
                self._restorer.fetch(newest)
            except (RunctlError, ClientError, BotoCoreError, OSError) as exc:
                logger.info("fetching ahead failed, the restore will see: %s", exc)

        self._start_job(fetch)

    def _metrics(self) -> MetricsShipper:
        return MetricsShipper(
            self._services.s3,
            self._metrics_file,
            self._progress,
            bucket=self._settings.bucket,
            run_id=self._settings.run_id,
            attempt=self._settings.attempt,
        )

    def _checkpoint_folder(self, request: RunRequest) -> Path:
        if request.checkpoint.dir:
            return self._paths.project / request.checkpoint.dir
        return self._paths.checkpoint

    @property
    def _reported(self) -> Path:
        return self._paths.runtime / "reported"

    @property
    def _metrics_file(self) -> Path:
        return self._paths.state / "metrics.jsonl"

    @property
    def _output(self) -> Path:
        return self._paths.log / "trainer.out"

    @property
    def _errors(self) -> Path:
        return self._paths.log / "trainer.err"

    # Waiting, always with an eye on the inbox.

    def _start_job(self, job: Callable[[], Result]) -> "Future[Result]":
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(job())
            except BaseException as exc:  # noqa: BLE001 - it is raised again by result()
                future.set_exception(exc)
            self._inbox.nudge()

        threading.Thread(target=run, name="job", daemon=True).start()
        return future

    def _await(self, future: "Future[Result]") -> Result:
        while not future.done():
            self._pause(timedelta(seconds=CHECK))
        return future.result()

    def _pause(self, duration: timedelta) -> None:
        if self._inbox.ending is not None:
            raise _EndedEarlyError
        self._inbox.wait(duration.total_seconds())
        if self._inbox.ending is not None:
            raise _EndedEarlyError

    def _retry(self, call: Callable[[], Result]) -> Result:
        while True:
            try:
                return call()
            except (TransientError, BotoCoreError) as exc:
                logger.warning("trying again: %s", exc)
                self._pause(RETRY)

    def _await_token_to_report(self, outcome: Outcome) -> None:
        """An end before the token is worth telling too, as long as the instance lives."""
        while not self._heartbeat.has_token() and outcome.kind is not OutcomeKind.STOPPED:
            ending = self._inbox.ending
            if ending is not None and (ending.deadline is None or _left(ending.deadline) <= 0):
                return
            time.sleep(RETRY.total_seconds() / 10)

    def _count_failure(self) -> int:
        path = self._paths.runtime / "failures"
        with path.open("a") as stream:
            stream.write(".")
        return path.stat().st_size


def _left(deadline: datetime) -> float:
    return (deadline - datetime.now(timezone.utc)).total_seconds()
