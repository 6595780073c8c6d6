"""Service Quotas: the vCPU limits of the account, and the vCPUs of instance types."""

from collections.abc import Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from runctl.aws.errors import code_of
from runctl.model.quota import VcpuQuota

SERVICE = "ec2"


class Ec2Quotas:
    """Implements `runctl.control.ports.Quotas`.

    Both services are called only to explain a refusal. Throttling is retried inside; after that,
    and without permission, the explanation omits the value.
    """

    def __init__(self, quotas: Any, ec2: Any) -> None:
        self._quotas = quotas
        self._ec2 = ec2

    def region(self) -> str:
        """Return the region, to which each quota applies."""
        return str(self._ec2.meta.region_name)

    def allowed(self, quota: VcpuQuota) -> int | None:
        """Return a quota's value in vCPUs, None when it cannot be read.

        A quota that was never changed may have no applied value: then AWS's default holds.
        """
        which = {"ServiceCode": SERVICE, "QuotaCode": quota.code}
        try:
            try:
                answer = self._quotas.get_service_quota(**which)
            except ClientError as exc:
                if code_of(exc) != "NoSuchResourceException":
                    return None
                answer = self._quotas.get_aws_default_service_quota(**which)
        except (ClientError, BotoCoreError):
            return None
        value = answer.get("Quota", {}).get("Value")
        return None if value is None else int(value)

    def vcpus(self, instance_types: Sequence[str]) -> dict[str, int]:
        """Return how many vCPUs an instance of each type has, of those that EC2 knows.

        By filter, since one unknown type would fail the whole call.
        """
        filters = [{"Name": "instance-type", "Values": list(instance_types)}]
        pages = self._ec2.get_paginator("describe_instance_types").paginate(Filters=filters)
        try:
            return {
                instance_type["InstanceType"]: int(instance_type["VCpuInfo"]["DefaultVCpus"])
                for page in pages
                for instance_type in page["InstanceTypes"]
            }
        except (ClientError, BotoCoreError):
            return {}
