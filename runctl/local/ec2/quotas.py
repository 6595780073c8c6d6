"""The vCPU quotas: the calls of Service Quotas, and how much is left for a launch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from runctl.local.core import catalog, limits, records
from runctl.local.core.allocation import Shortage
from runctl.local.core.knobs import Knobs
from runctl.local.core.market import Market, Pool
from runctl.local.core.protocol import ApiError
from runctl.model.quota import QUOTAS, VcpuQuota, quota_of

# The default quotas of an account. They suffice for everything, while AWS gives a new account none
# for GPUs and very little of the rest.
DEFAULT_VCPUS = 10_000
_SERVICE = "ec2"


class Authorize(Protocol):
    """Checks that the caller has the permission for a call."""

    def __call__(self, action: str) -> None:
        """Raise AccessDeniedException unless the call is allowed."""


class Quotas:
    """The quotas of the account, as the knob `vcpu_quotas` sets them."""

    def __init__(self, knobs: Knobs, market: Market) -> None:
        self._knobs, self._market = knobs, market
        self._actions: Mapping[str, Callable[[VcpuQuota], int]] = {
            "GetServiceQuota": self._applied,
            "GetAWSDefaultServiceQuota": lambda _: DEFAULT_VCPUS,
        }

    def answer(self, action: str, request: Mapping[str, Any], authorize: Authorize) -> Any:
        """Perform one call of Service Quotas."""
        if action not in self._actions:
            raise ApiError("UnknownOperationException", f"The local cloud has no {action}.")
        limits.check("service-quotas", action, request)
        authorize(action)
        quota = QUOTAS.get(request.get("QuotaCode", ""))
        if request.get("ServiceCode") != _SERVICE or quota is None:
            raise _no_such_quota()
        value = self._actions[action](quota)
        owner = f"{records.region()}:{records.account_id()}"
        arn = f"arn:aws:servicequotas:{owner}:{_SERVICE}/{quota.code}"
        return {
            "Quota": {
                "ServiceCode": _SERVICE,
                "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
                "QuotaArn": arn,
                "QuotaCode": quota.code,
                "QuotaName": quota.name,
                "Value": float(value),
                "Unit": "None",
                "Adjustable": True,
                "GlobalQuota": False,
            }
        }

    def _applied(self, quota: VcpuQuota) -> int:
        if quota.code not in self._knobs.vcpu_quotas:
            raise _no_such_quota()  # as on AWS: it was never changed
        return self._knobs.vcpu_quotas[quota.code]

    def shortage(self, pool: Pool, granted: Sequence[Pool]) -> Shortage | None:
        """Return why another instance exceeds its quota, after those granted to a request."""
        quota = quota_of(pool.instance_type, pool.lifecycle)
        if quota is None:
            return None
        allowed = self._knobs.vcpu_quotas.get(quota.code, DEFAULT_VCPUS)
        counted = [*self._market.in_use.items(), *((used, 1) for used in granted)]
        used = sum(
            catalog.vcpus(used.instance_type) * count
            for used, count in counted
            if quota_of(used.instance_type, used.lifecycle) == quota
        )
        if used + catalog.vcpus(pool.instance_type) <= allowed:
            return None
        if pool.lifecycle == "spot":
            return Shortage("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
        return Shortage(
            "VcpuLimitExceeded",
            "You have requested more vCPU capacity than your current vCPU limit of "
            f"{allowed} allows for the instance bucket that the specified instance type belongs "
            "to. Please visit http://aws.amazon.com/contact-us/ec2-request to request an "
            "adjustment to this limit.",
        )


def _no_such_quota() -> ApiError:
    return ApiError("NoSuchResourceException", "The request failed because it does not exist.")
