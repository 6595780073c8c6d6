"""The services that a control function may use, and the clock."""

from datetime import datetime
from typing import Protocol

from runctl.control.ports.groups import GroupLedger
from runctl.control.ports.images import Builds, Images
from runctl.control.ports.ledger import Ledger
from runctl.control.ports.machines import Commands, Fleet, Prices, Quotas
from runctl.control.ports.processing import ProcessingJobs
from runctl.control.ports.storage import (
    Checkpoints,
    EnvironmentCatalog,
    Inputs,
    Objects,
    RunData,
    Secrets,
)
from runctl.control.ports.workflow import Notices, Workflow
from runctl.policy.session_policy import Place


class Clock(Protocol):
    """The source of the time."""

    def now(self) -> datetime:
        """Return the aware current instant, in UTC."""
        ...


class Services(Protocol):
    """Everything a control function may use; each function uses only a few of them."""

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    @property
    def place(self) -> Place:
        """Where the deployment's resources are."""
        ...

    @property
    def ledger(self) -> Ledger:
        """The state of all runs."""
        ...

    @property
    def groups(self) -> GroupLedger:
        """The groups of runs."""
        ...

    @property
    def fleet(self) -> Fleet:
        """EC2."""
        ...

    @property
    def quotas(self) -> Quotas:
        """Service Quotas."""
        ...

    @property
    def prices(self) -> Prices:
        """Prices of capacity pools."""
        ...

    @property
    def commands(self) -> Commands:
        """The agents."""
        ...

    @property
    def workflow(self) -> Workflow:
        """Step Functions."""
        ...

    @property
    def objects(self) -> Objects:
        """S3."""
        ...

    @property
    def inputs(self) -> Inputs:
        """The objects that runs read, in any bucket."""
        ...

    @property
    def processing_jobs(self) -> ProcessingJobs:
        """The plans and outputs of processing jobs."""
        ...

    @property
    def images(self) -> Images:
        """The registry."""
        ...

    @property
    def secrets(self) -> Secrets:
        """The secrets that requests refer to."""
        ...

    @property
    def builds(self) -> Builds:
        """The builds of images."""
        ...

    @property
    def log_group(self) -> str:
        """The log group of trainers, agents and builds."""
        ...

    @property
    def notices(self) -> Notices:
        """The topic."""
        ...

    @property
    def environment_catalog(self) -> EnvironmentCatalog:
        """The environments that runs share."""
        ...

    @property
    def run_data(self) -> RunData:
        """Everything that is stored of runs."""
        ...

    def checkpoints(self, run_id: str) -> Checkpoints:
        """Return the checkpoints of a run."""
        ...
