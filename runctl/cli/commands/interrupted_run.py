"""A run that is followed, interrupted through AWS FIS, and followed to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from runctl.model.errors import NotFoundError, RefusedError, RunctlError, TransientError
from runctl.model.outcome import RunStatus
from runctl.model.pool import Pool
from runctl.report.wording import format_duration

if TYPE_CHECKING:
    from runctl.aws.fault_injection import FaultInjection
    from runctl.cli.cloud import Cloud
    from runctl.model.run import Attempt, Run

# Nothing is awaited longer.
_AWAIT_WITHIN = timedelta(minutes=45)
_Found = TypeVar("_Found")


class ExperimentFailedError(RunctlError):
    """FIS did not interrupt the instance; waiting will not help."""


def interrupt_and_follow(
    followed: FollowedRun,
    faults: FaultInjection,
    report: Callable[[str, str], None],
    *,
    steps: int,
) -> None:
    """Interrupt the run once it has saved, and follow it to its end; report each step.

    RunctlError if a step fails. What could not be removed is in `followed.left`.
    """
    training = followed.wait_to("train", lambda _, attempts: _training(attempts, after=0))
    pool = Pool.parse(training.pool)
    report("running", f"{pool.instance_type} in {pool.zone}, {training.instance_ids[0]}")
    step = followed.wait_to("save", lambda run, _: run.step if run.save else None)
    report("checkpoint", f"step {step}")
    training = followed.wait_to("train", lambda _, attempts: _training(attempts, after=0))
    followed.interrupt(training, faults)
    report("interrupted", f"by AWS FIS: {training.instance_ids[0]}")
    noticed = followed.wait_to("notice", lambda _, attempts: _noticed(attempts, training.number))
    report("notice", f"seen at {noticed.noticed_at:%H:%M:%S} UTC")
    ended = followed.wait_to(
        "end its attempt", lambda run, found: _saved(run, found, training.number)
    )
    report("checkpoint", f"committed: step {ended}")
    resumed = followed.wait_to("resume", lambda _, found: _training(found, after=training.number))
    pool = Pool.parse(resumed.pool)
    report(
        "resumed", f"from step {resumed.resume_step or 0} on {pool.instance_type} in {pool.zone}"
    )
    if not resumed.resume_step:
        raise RunctlError("it resumed from its beginning, and not from a checkpoint")
    run = followed.wait_to("end", lambda run, _: run if run.ended is not None else None)
    if run.ended is not RunStatus.COMPLETED:
        raise RunctlError(_why(run))
    report("completed", f"step {run.step} of {steps}")


def _training(attempts: list[Attempt], *, after: int) -> Attempt | None:
    """Return the newest attempt after a number, if its program trains."""
    newest = attempts[-1] if attempts and attempts[-1].number > after else None
    if newest is None or "first_step" not in newest.timeline:
        return None
    # The replacement may have ended by the time that it is looked at.
    return newest if after or newest.ended is None else None


def _noticed(attempts: list[Attempt], number: int) -> Attempt | None:
    return next((at for at in attempts if at.number == number and at.noticed_at), None)


def _saved(run: Run, attempts: list[Attempt], number: int) -> int | None:
    has_ended = any(at.number == number and at.ended is not None for at in attempts)
    return run.step if has_ended else None


def _why(run: Run) -> str:
    status = "" if run.ended is None else run.ended.value
    return f"the run ended as {status}: {run.reason or 'without a reason'}"


class FollowedRun:
    """Watches the run, which is polled, and acts on it; `left` is what could not be removed."""

    def __init__(self, cloud: Cloud, run_id: str, execution_arn: str) -> None:
        self._cloud, self._run_id, self._execution_arn = cloud, run_id, execution_arn
        self._give_up_at = time.monotonic() + _AWAIT_WITHIN.total_seconds()
        self.left: list[str] = []

    def wait_to(self, what: str, check: Callable[[Run, list[Attempt]], _Found | None]) -> _Found:
        """Return what `check` finds; RunctlError if the run has ended, or takes too long."""
        while True:
            run, attempts, is_over = self._read()
            if run is not None and (found := check(run, attempts)) is not None:
                return found
            if is_over:
                raise RunctlError(f"it ended before it could {what}: {self._end_of(run)}")
            self.pause(what)

    def pause(self, what: str) -> None:
        """Wait until the next look; RunctlError if it takes too long."""
        if time.monotonic() > self._give_up_at:
            within = format_duration(_AWAIT_WITHIN)
            raise RunctlError(f"it did not {what} within {within} of its start")
        time.sleep(self._cloud.pause)

    def _read(self) -> tuple[Run | None, list[Attempt], bool]:
        try:
            # In this order: what an execution did before its end is in the ledger.
            execution = self._cloud.workflow.find_execution(self._execution_arn)
            run = self._cloud.ledger.find_run(self._run_id)
            attempts = self._cloud.ledger.attempts(self._run_id) if run else []
        except TransientError:
            return None, [], False
        return run, attempts, execution is not None and not execution.is_running

    def _end_of(self, run: Run | None) -> str:
        if run is not None and run.ended is not None:
            return _why(run)
        execution = self._cloud.workflow.find_execution(self._execution_arn)
        return execution.cause or execution.status if execution is not None else "it is unknown"

    def interrupt(self, attempt: Attempt, faults: FaultInjection) -> None:
        """Interrupt the attempt's instance by FIS, and leave no template there."""
        deployment, instance_id = self._cloud.deployment, attempt.instance_ids[0]
        where = f"{deployment.region}:{deployment.account}"
        create = partial(
            faults.create_template,
            instance_arn=f"arn:aws:ec2:{where}:instance/{instance_id}",
            role=deployment.fault_injection_role,
            token=self._run_id,
        )
        try:
            template_id = create()
        except RefusedError:
            raise
        except BaseException:
            # It may have been made: with the same token, this finds it.
            with suppress(RunctlError):
                self._delete(faults, create())
            raise
        try:
            experiment = faults.start(template_id, token=self._run_id)
            while not (experiment.has_failed or experiment.status in {"running", "completed"}):
                self.pause("be interrupted")
                experiment = faults.find(experiment.experiment_id)
            # FIS reports what EC2 refuses only at the end of its action.
            while experiment.status == "running" and not self._is_noticed(attempt.number):
                self.pause("be interrupted")
                experiment = faults.find(experiment.experiment_id)
        finally:
            self._delete(faults, template_id)
        if experiment.has_failed:
            raise ExperimentFailedError(
                f"the experiment {experiment.experiment_id} of FIS is {experiment.status}: "
                f"{experiment.reason}"
            )

    def _delete(self, faults: FaultInjection, template_id: str) -> None:
        """Delete a template; one that remains does nothing by itself, so the run goes on."""
        try:
            faults.delete_template(template_id)
        except RunctlError as exc:
            self.left.append(
                f"the experiment template {template_id} remains in FIS: {exc}; delete it with "
                f"`aws fis delete-experiment-template --id {template_id}`"
            )

    def _is_noticed(self, number: int) -> bool:
        return _noticed(self._read()[1], number) is not None

    def stop(self) -> str:
        """Stop the run unless it has ended; return what remains of it."""
        run_id = self._run_id
        try:
            self._cloud.workflow.stop_run(
                self._execution_arn, cause="stopped by `runctl verify --run`"
            )
        except NotFoundError:
            return f"{run_id} has not started"
        except RunctlError as exc:
            return f"{run_id} could not be stopped: {exc}; run `runctl stop {run_id}`"
        return (
            f"{run_id} is stopped; its instances are terminated within minutes, and its record "
            f"and checkpoints stay until `runctl forget {run_id}`"
        )
