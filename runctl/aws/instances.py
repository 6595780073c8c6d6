"""Existing instances, which outlive a run: launch, tags, and commands over SSM."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.commands import CommandResult, read_result
from runctl.aws.errors import code_of, translated
from runctl.aws.fleet import Ec2Fleet
from runctl.model.identity import DEPLOYMENT_TAG, EXISTING_TAG, KEEP_ALIVE_TAG, RUN_TAG
from runctl.model.lending import Lending
from runctl.model.pool import Pool

# How long SSM may try to reach the instance.
CHECK_DELIVERY_SECONDS = 60


class ExistingInstances:
    """EC2 and SSM for the commands that deal with existing instances."""

    def __init__(self, *, ec2: Any, ssm: Any) -> None:
        self._ec2 = ec2
        self._ssm = ssm

    def lend(self, instance_id: str, lending: Lending) -> None:
        """Tag the instance, so that the deployment's functions may command it."""
        with translated():
            self._ec2.create_tags(
                Resources=[instance_id], Tags=[{"Key": EXISTING_TAG, "Value": lending.value}]
            )

    def end_lending(self, instance_id: str) -> None:
        """Remove the tag, whatever its value; without one, nothing happens."""
        with translated():
            self._ec2.delete_tags(Resources=[instance_id], Tags=[{"Key": EXISTING_TAG}])

    def is_registered(self, instance_id: str) -> bool:
        """Whether its SSM agent has registered and can be reached."""
        with translated():
            answer = self._ssm.describe_instance_information(
                Filters=[{"Key": "InstanceIds", "Values": [instance_id]}]
            )
        return any(
            agent["InstanceId"] == instance_id and agent.get("PingStatus") == "Online"
            for agent in answer.get("InstanceInformationList", ())
        )

    def command(self, instance_id: str, document: str, parameters: Mapping[str, str]) -> str | None:
        """Send a command and return its id; None when SSM does not reach the instance."""
        with translated():
            try:
                answer = self._ssm.send_command(
                    InstanceIds=[instance_id],
                    DocumentName=document,
                    Parameters={name: [value] for name, value in parameters.items()},
                    TimeoutSeconds=CHECK_DELIVERY_SECONDS,
                )
            except ClientError as exc:
                if code_of(exc) == "InvalidInstanceId":
                    return None
                raise
        return str(answer["Command"]["CommandId"])

    def result(self, command_id: str, instance_id: str) -> CommandResult | None:
        """Return how a command ended, or None while it has not."""
        return read_result(self._ssm, command_id, instance_id)


def creation_request(
    fleet: Ec2Fleet,
    pools: Sequence[Pool],
    *,
    token: str,
    name: str,
    keep_until: datetime,
    owner: str,
) -> str:
    """Return the exact CreateFleet request for one machine that waits for runs.

    It is an attempt's request with other tags. The fleet carries the tag of a run that does not
    exist, so that reconciliation deletes it once the machine is gone. By `token`, a repeated
    request finds what the first one launched. `owner` lends it to the deployment for as long as it
    is kept.
    """
    request = json.loads(fleet.build_request(run_id=token, attempt=0, launch_try=1, pools=pools))
    until = keep_until.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    lending = Lending(deployment=fleet.deployment, until=keep_until, owner=owner)
    tags = {"Name": name, KEEP_ALIVE_TAG: until, EXISTING_TAG: lending.value}
    for specification in request["TagSpecifications"]:
        own = {"Name": name, RUN_TAG: token} if specification["ResourceType"] == "fleet" else tags
        specification["Tags"] = [
            *({"Key": key, "Value": value} for key, value in own.items()),
            *(tag for tag in specification["Tags"] if tag["Key"] == DEPLOYMENT_TAG),
        ]
    return json.dumps(request, sort_keys=True)
