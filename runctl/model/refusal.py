"""Refusals of a launch: what EC2's error codes say about a pool, a quota, the set-up or nothing."""

from collections.abc import Iterable, Mapping
from enum import Enum


class RefusalKind(str, Enum):
    """The subject of a refusal, which decides whether waiting helps and what is requested next."""

    CAPACITY = "capacity"  # the pool has no capacity now
    PRICE = "price"  # the pool costs more than the request pays
    ADDRESSES = "addresses"  # the subnet has no free address
    QUOTA = "quota"  # the account may not run more vCPUs of the type's family
    FLEETS = "fleets"  # the account has too many fleets
    UNSUPPORTED = "unsupported"  # the zone does not offer the type, or no zone does
    SETUP = "setup"  # a permission or a setting of the account: no pool would answer otherwise
    INVALID = "invalid"  # the request itself is wrong
    UNANSWERED = "unanswered"  # throttling, a fault, or something too new: says nothing of the pool
    UNKNOWN = "unknown"  # a code that is not listed here: it is not given any meaning

    @property
    def is_answer(self) -> bool:
        """Whether it says anything about the pool; otherwise the pool is to be asked again soon."""
        return self not in {RefusalKind.UNANSWERED, RefusalKind.UNKNOWN}


THROTTLING = frozenset(
    {
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestResourceCountExceeded",
        "EC2ThrottledException",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "BandwidthLimitExceeded",
        "PriorRequestNotComplete",
        "SlowDown",
    }
)
FAULTS = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServiceError",
        "ServiceUnavailable",
        "Unavailable",
        "ServiceException",
        "RequestTimeout",
        "RequestTimeoutException",
        "503",
        "500",
    }
)
# EC2 is eventually consistent: what was made a moment ago may not be known everywhere yet.
RACES = frozenset(
    {
        "InvalidLaunchTemplateId.NotFound",
        "InvalidLaunchTemplateName.NotFoundException",
        "InvalidLaunchTemplateId.VersionNotFound",
        "IdempotentParameterMismatch",
        "InvalidInstanceID.NotFound",
    }
)
SETUP = frozenset(
    {
        "ServiceLinkedRoleCreationNotPermitted",
        "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
        "UnauthorizedOperation",
        "SsmAccessDenied",
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "AuthorizationError",
        "OptInRequired",
        "PendingVerification",
        "Blocked",
    }
)
VCPU_QUOTAS = frozenset(
    {
        "MaxSpotInstanceCountExceeded",
        "SpotInstanceCountExceeded",
        "VcpuLimitExceeded",
        "InstanceLimitExceeded",
    }
)

_CODES: Mapping[RefusalKind, frozenset[str]] = {
    RefusalKind.CAPACITY: frozenset(
        {
            "InsufficientInstanceCapacity",
            "UnfulfillableCapacity",
            "InsufficientCapacity",
            "InsufficientHostCapacity",
            "InsufficientReservedInstanceCapacity",
        }
    ),
    RefusalKind.PRICE: frozenset({"SpotMaxPriceTooLow"}),
    RefusalKind.ADDRESSES: frozenset({"InsufficientFreeAddressesInSubnet"}),
    RefusalKind.QUOTA: VCPU_QUOTAS,
    RefusalKind.FLEETS: frozenset({"MaxFleetCountExceeded"}),
    RefusalKind.UNSUPPORTED: frozenset(
        {"Unsupported", "InvalidFleetConfiguration", "UnsupportedOperation"}
    ),
    RefusalKind.SETUP: SETUP,
    RefusalKind.INVALID: frozenset(
        {
            "InvalidParameter",
            "InvalidParameterCombination",
            "InvalidParameterValue",
            "MissingParameter",
            "InvalidAMIID.Malformed",
            "InvalidAMIID.NotFound",
            "InvalidAMIID.Unavailable",
            "InvalidBlockDeviceMapping",
            "InvalidGroup.NotFound",
            "InvalidSecurityGroupID.NotFound",
            "InvalidSubnetID.NotFound",
            "InvalidUserData.Malformed",
            "InvalidLaunchTemplateId.Malformed",
        }
    ),
    RefusalKind.UNANSWERED: THROTTLING | FAULTS | RACES,
}
_KINDS = {code: kind for kind, codes in _CODES.items() for code in codes}


def kind_of(code: str) -> RefusalKind:
    """Return what a code of EC2 is about; UNKNOWN for one that is not listed."""
    return _KINDS.get(code, RefusalKind.UNKNOWN)


def fatal_code(codes: Iterable[str]) -> str | None:
    """Return the code for which a launch that gave no instance would always be refused, or None.

    A set-up error outranks whatever the pools answer: EC2 reports a missing permission for one
    override and, in the same answer, that a zone lacks the type of another one. An invalid request
    does not, since some parameters are invalid for some types only.
    """
    found = list(codes)
    setup = next((code for code in found if kind_of(code) is RefusalKind.SETUP), None)
    if setup is not None:
        return setup
    is_invalid = bool(found) and all(kind_of(code) is RefusalKind.INVALID for code in found)
    return found[0] if is_invalid else None
