"""The SSM agents of instances: which of them are registered and take commands."""

from __future__ import annotations

import time
from typing import Any

from runctl.local.core import iam, records
from runctl.local.core.instance import Instance
from runctl.local.core.protocol import ApiError
from runctl.local.ec2.disk_keys import Authorize
from runctl.local.ec2.filters import page
from runctl.local.ec2.instances import Instances
from runctl.model.permissions import REQUIRED


class Agents:
    """The agents of all instances."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances

    def is_registered(self, instance_id: str) -> bool:
        """Return whether an instance takes commands."""
        try:
            self.find(instance_id)
        except ApiError:
            return False
        return True

    def find(self, instance_id: str) -> Instance:
        """Return an instance that takes commands, or refuse as SSM does."""
        refusal = ApiError(
            "InvalidInstanceId",
            f"Instances [[{instance_id}]] not in a valid state for account {records.account_id()}",
        )
        try:
            instance = self._instances.get(instance_id)
        except ApiError as exc:
            raise refusal from exc
        if not _is_registered(instance):
            raise refusal
        return instance

    async def describe(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """Describe the registered agents (DescribeInstanceInformation)."""
        authorize("DescribeInstanceInformation")
        filters = {
            item.get("Key", item.get("key", "")): item.get("Values", item.get("valueSet", []))
            for item in (
                *request.get("Filters", []),
                *request.get("InstanceInformationFilterList", []),
            )
        }
        if others := set(filters) - {"InstanceIds"}:
            raise ApiError(
                "InvalidInstanceInformationFilterValue",
                f"The local cloud filters agents by InstanceIds only, not {sorted(others)}",
            )
        wanted = set(filters.get("InstanceIds", []))
        shown, token = page(
            [
                {
                    "InstanceId": instance.instance_id,
                    "PingStatus": "Online",
                    "LastPingDateTime": time.time(),
                    "AgentVersion": "3.3.0.0",
                    "PlatformType": "Linux",
                    "ResourceType": "EC2Instance",
                    "IPAddress": instance.private_ip,
                    "ComputerName": instance.private_dns,
                }
                for instance in self._instances.all()
                if _is_registered(instance) and (not wanted or instance.instance_id in wanted)
            ],
            request,
            least=1,
        )
        return {"InstanceInformationList": shown, "NextToken": token or ""}


def _is_registered(instance: Instance) -> bool:
    """Return whether the instance's SSM agent has registered, which its role must allow."""
    if not instance.agent_ready or instance.profile is None or instance.state != "running":
        return False
    role = records.role_arn(instance.profile.role)
    needed = REQUIRED["ssm-agent", "register"]
    return not any(iam.denied_to_role(role, need.action, "*") for need in needed)
