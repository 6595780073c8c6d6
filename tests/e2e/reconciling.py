"""Reconciliation as its function runs it: with the role's own permissions, at a later time."""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import boto3

from runctl.aws.services import AwsServices, SystemClock
from tests.e2e.testbed import Testbed


@dataclass
class RoleClients:
    """Clients with the credentials of the function's role."""

    testbed: Testbed
    role: str

    def __post_init__(self) -> None:
        sts = self.testbed.clients.get("sts")
        got = sts.assume_role(RoleArn=self.role, RoleSessionName="later")["Credentials"]
        self._session = boto3.Session(
            aws_access_key_id=got["AccessKeyId"],
            aws_secret_access_key=got["SecretAccessKey"],
            aws_session_token=got["SessionToken"],
            region_name=self.testbed.endpoint.region,
        )

    def get(self, service: str) -> Any:
        return self._session.client(service, endpoint_url=self.testbed.endpoint.url)


class LaterClock(SystemClock):
    """A clock two hours ahead, so that recent launches are old enough for reconciliation."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc) + timedelta(hours=2)


def services_to_reconcile(testbed: Testbed, clock: SystemClock) -> AwsServices:
    """Return the services of reconciliation's function."""
    name = f"{testbed.deployment.name}-reconcile"
    function = testbed.clients.get("lambda").get_function_configuration(FunctionName=name)
    clients = RoleClients(testbed, function["Role"])
    return AwsServices(clients, testbed.deployment, clock=clock)
