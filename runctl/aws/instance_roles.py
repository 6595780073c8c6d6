"""The roles of instances: that of the deployment's own, and those of instance profiles."""

from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated

_MISSING = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed", "NoSuchEntity"})


class InstanceRoles:
    """Implements `runctl.control.ports.access.InstanceRoles`.

    `role_arn` is that of the role of all instances that the deployment launches.
    """

    def __init__(self, client_of: Callable[[str], Any], *, role_arn: str) -> None:
        self._client_of = client_of
        self.account = role_arn.split(":")[4]
        self.own = _name_of(role_arn)

    def role_of(self, instance_id: str) -> str | None:
        """Return the name of the role of an instance, None if there is none."""
        with translated():
            try:
                answer = self._client_of("ec2").describe_instances(InstanceIds=[instance_id])
                profiles = [
                    instance["IamInstanceProfile"]["Arn"]
                    for reservation in answer["Reservations"]
                    for instance in reservation["Instances"]
                    if "IamInstanceProfile" in instance
                ]
                if not profiles:
                    return None
                answer = self._client_of("iam").get_instance_profile(
                    InstanceProfileName=_name_of(profiles[0])
                )
            except ClientError as exc:
                if code_of(exc) in _MISSING:
                    return None
                raise
        roles = answer["InstanceProfile"]["Roles"]
        return str(roles[0]["RoleName"]) if roles else None


def _name_of(arn: str) -> str:
    """Return the name in an ARN, which may have a path before it."""
    return arn.rpartition("/")[2]
