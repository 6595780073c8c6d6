"""The ports of hyperparameter sweeps; `runctl.aws` implements them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from runctl.control.ports.services import Services
from runctl.control.ports.workflow import Workflow
from runctl.model.trial import Trial, TrialEnd


class TrialLedger(Protocol):
    """The trials of all sweeps.

    As in the ledger of runs, every move is a conditional write that may be repeated with the same
    arguments, and every read is consistent unless it says otherwise.
    """

    def create_trial(self, trial: Trial) -> Trial:
        """Put the trial unless it exists; return what the ledger holds."""
        ...

    def find_trial(self, group_id: str, number: int) -> Trial | None:
        """Return the trial, or None."""
        ...

    def list_trials(self, group_id: str) -> list[Trial]:
        """Return all trials of a sweep in the order of their numbers."""
        ...

    def restart_trial(self, trial: Trial, *, execution: str) -> Trial:
        """Let an unfinished trial run again in another execution; return what the ledger holds."""
        ...

    def end_trial(self, trial: Trial, *, end: TrialEnd, now: datetime) -> Trial:
        """Set the trial's end unless it has one; return what the ledger holds.

        Only while the execution of `trial` has it: a late answer of an earlier one changes nothing.
        """
        ...

    def rung_values(self, group_id: str, rung: int) -> Mapping[int, float]:
        """Return the values of the trials that have reached a rung; eventually consistent."""
        ...

    def record_rung(
        self, group_id: str, number: int, *, rung: int, value: float, goes_on: bool
    ) -> bool:
        """Record a trial's value at a rung, and whether it goes on, unless that is recorded.

        Returns whether the trial goes on according to the first record.
        """
        ...

    def find_rung(self, group_id: str, number: int, *, rung: int) -> bool | None:
        """Return whether a trial goes on after a rung, None before that was decided."""
        ...


class ResultFiles(Protocol):
    """Objects that are written whole, by key."""

    def put(self, key: str, body: bytes, *, content_type: str = "") -> None:
        """Store an object, and replace an existing one; browsers go by its content type."""
        ...


class Execution(Protocol):
    """An execution, with the error and the cause that it failed with."""

    @property
    def status(self) -> str:
        """RUNNING, SUCCEEDED, FAILED, …"""
        ...

    @property
    def is_running(self) -> bool:
        """Whether it is running."""
        ...

    @property
    def error(self) -> str:
        """The name of its error; empty without one."""
        ...

    @property
    def cause(self) -> str:
        """The cause of its error; empty without one."""
        ...


class SweepWorkflow(Workflow, Protocol):
    """The executions of runs, by their names, too."""

    def execution_arn(self, name: str) -> str:
        """Return the ARN of an execution of a run."""
        ...

    def find_execution(self, execution_arn: str) -> Execution | None:
        """Return the execution, or None if it is not known."""
        ...


class SweepServices(Services, Protocol):
    """The services of functions that belong to sweeps."""

    @property
    def workflow(self) -> SweepWorkflow:
        """Step Functions."""
        ...

    @property
    def trials(self) -> TrialLedger:
        """The trials."""
        ...

    @property
    def judge_function(self) -> str:
        """The name of the function that judges trials."""
        ...

    @property
    def blobs(self) -> ResultFiles:
        """The objects of the deployment's bucket."""
        ...
