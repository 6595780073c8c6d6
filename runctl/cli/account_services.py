"""All services of a deployment, used with the caller's credentials."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property

from runctl.aws.clients import Clients
from runctl.aws.commands import SsmCommands
from runctl.aws.deployment import Deployment
from runctl.aws.fleet import Ec2Fleet, LaunchTemplate
from runctl.aws.ledger import DynamoLedger
from runctl.aws.notices import SnsNotices
from runctl.aws.objects import S3Objects
from runctl.aws.prices import Ec2Prices
from runctl.aws.quotas import Ec2Quotas
from runctl.aws.workflow import StepFunctions
from runctl.model.pool import MachineKind


class SystemClock:
    """The time of this machine."""

    def now(self) -> datetime:
        """Return the aware current instant, in UTC."""
        return datetime.now(timezone.utc)


@dataclass(frozen=True)
class AccountServices:
    """Implements `runctl.control.ports.Services`; each service is created on first use."""

    clients: Clients
    deployment: Deployment
    clock: SystemClock = field(default_factory=SystemClock)

    @cached_property
    def ledger(self) -> DynamoLedger:
        """The ledger of runs."""
        return DynamoLedger(self.clients.get("dynamodb"), self.deployment.table)

    @cached_property
    def fleet(self) -> Ec2Fleet:
        """EC2, with the launch templates by which it recognizes the deployment's instances."""
        return Ec2Fleet(
            self.clients.get("ec2"),
            deployment=self.deployment.name,
            subnets={},
            launch_templates={
                MachineKind(kind): LaunchTemplate(template_id=template_id, version="")
                for kind, template_id in self.deployment.launch_templates.items()
            },
            security_group=self.deployment.security_group,
        )

    @cached_property
    def quotas(self) -> Ec2Quotas:
        """Service Quotas, and EC2 for the sizes of instance types."""
        return Ec2Quotas(self.clients.get("service-quotas"), self.clients.get("ec2"))

    @cached_property
    def prices(self) -> Ec2Prices:
        """EC2, for the prices of Spot instances."""
        return Ec2Prices(self.clients.get("ec2"))

    @cached_property
    def commands(self) -> SsmCommands:
        """Commands to the agents."""
        return SsmCommands(self.clients.get("ssm"), document=self.deployment.command_document)

    @cached_property
    def workflow(self) -> StepFunctions:
        """The executions."""
        return StepFunctions(
            self.clients.get("stepfunctions"), state_machine_arn=self.deployment.state_machine_arn
        )

    @cached_property
    def objects(self) -> S3Objects:
        """The bucket."""
        return S3Objects(self.clients.get("s3"), bucket=self.deployment.bucket)

    @cached_property
    def notices(self) -> SnsNotices:
        """The topic."""
        return SnsNotices(self.clients.get("sns"), topic_arn=self.deployment.topic_arn)
