"""The logger, the metrics and the services that the functions share."""

import functools
import json
import os
from datetime import datetime, timezone
from typing import Any

from aws_lambda_powertools import Logger, single_metric
from aws_lambda_powertools.metrics import MetricUnit

from runctl.aws.clients import Clients
from runctl.aws.commands import SsmCommands
from runctl.aws.fleet import Ec2Fleet, LaunchTemplate
from runctl.aws.ledger import DynamoLedger
from runctl.aws.notices import SnsNotices
from runctl.aws.objects import S3Objects
from runctl.aws.prices import Ec2Prices
from runctl.aws.quotas import Ec2Quotas
from runctl.aws.workflow import StepFunctions
from runctl.control.ports import Services
from runctl.model.pool import MachineKind

NAMESPACE = "runctl"

Document = dict[str, Any]

logger = Logger()


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        """Return the current time, in UTC."""
        return datetime.now(timezone.utc)


class LambdaServices:
    """The services, each created at its first use from the function's environment variables.

    A function that does not use a service has neither its variables nor its permissions.
    """

    def __init__(self) -> None:
        self.clock = SystemClock()
        self._clients = Clients()

    @functools.cached_property
    def ledger(self) -> DynamoLedger:
        """The table of RUNCTL_TABLE."""
        return DynamoLedger(self._clients.get("dynamodb"), os.environ["RUNCTL_TABLE"])

    @functools.cached_property
    def fleet(self) -> Ec2Fleet:
        """EC2, with RUNCTL_SUBNETS and RUNCTL_LAUNCH_TEMPLATES where it launches.

        RUNCTL_DEPLOYMENT separates this deployment's instances from others in the account.
        RUNCTL_SECURITY_GROUP is needed to find all machines; without it none are found.
        """
        templates = json.loads(os.environ.get("RUNCTL_LAUNCH_TEMPLATES", "{}"))
        return Ec2Fleet(
            self._clients.get("ec2"),
            deployment=os.environ["RUNCTL_DEPLOYMENT"],
            subnets=json.loads(os.environ.get("RUNCTL_SUBNETS", "{}")),
            launch_templates={
                MachineKind(kind): LaunchTemplate(
                    template_id=template["id"], version=template["version"]
                )
                for kind, template in templates.items()
            },
            security_group=os.environ.get("RUNCTL_SECURITY_GROUP", ""),
            own_images=[
                MachineKind(kind) for kind in json.loads(os.environ.get("RUNCTL_OWN_IMAGES", "[]"))
            ],
        )

    @functools.cached_property
    def quotas(self) -> Ec2Quotas:
        """Service Quotas, and EC2 for the sizes of instance types."""
        return Ec2Quotas(self._clients.get("service-quotas"), self._clients.get("ec2"))

    @functools.cached_property
    def prices(self) -> Ec2Prices:
        """EC2, for the prices of Spot instances."""
        return Ec2Prices(self._clients.get("ec2"))

    @functools.cached_property
    def commands(self) -> SsmCommands:
        """SSM, with the documents of RUNCTL_COMMAND_DOCUMENT and RUNCTL_START_DOCUMENT, if set."""
        return SsmCommands(
            self._clients.get("ssm"),
            document=os.environ.get("RUNCTL_COMMAND_DOCUMENT", ""),
            start_document=os.environ.get("RUNCTL_START_DOCUMENT", ""),
        )

    @functools.cached_property
    def workflow(self) -> StepFunctions:
        """Step Functions; tokens and executions identify their state machine."""
        return StepFunctions(self._clients.get("stepfunctions"))

    @functools.cached_property
    def objects(self) -> S3Objects:
        """The bucket of RUNCTL_BUCKET."""
        return S3Objects(self._clients.get("s3"), bucket=os.environ["RUNCTL_BUCKET"])

    @functools.cached_property
    def notices(self) -> SnsNotices:
        """The topic of RUNCTL_TOPIC_ARN."""
        return SnsNotices(self._clients.get("sns"), topic_arn=os.environ["RUNCTL_TOPIC_ARN"])


@functools.cache
def services() -> Services:
    """Return the services of this execution environment; the next invocation reuses them."""
    return LambdaServices()


def count(name: str, value: int = 1, **dimensions: str) -> None:
    """Publish a count as a log line in the embedded metric format, which needs no API call."""
    with single_metric(
        name=name, unit=MetricUnit.Count, value=value, namespace=NAMESPACE
    ) as metric:
        for dimension, text in dimensions.items():
            metric.add_dimension(name=dimension, value=text)
