"""Failed pulls: what the engine's message means, and what to do about it. Pure."""

from dataclasses import dataclass
from enum import Enum


class PullFailure(Enum):
    """The kinds of failure. All but the last two stay the same however often one tries."""

    MISSING = "missing"
    LOGIN = "login"
    PLATFORM = "platform"
    DISK = "disk"
    LIMIT = "limit"  # the registry's rate limit, which ends
    UNREACHABLE = "unreachable"  # the registry, the network, or anything that is not known

    @property
    def may_pass(self) -> bool:
        """Whether another try may succeed."""
        return self in {PullFailure.LIMIT, PullFailure.UNREACHABLE}


# In this order: a refusal often mentions that the image may not exist either.
_SIGNS: tuple[tuple[PullFailure, tuple[str, ...]], ...] = (
    (PullFailure.LIMIT, ("toomanyrequests", "rate limit", "too many requests")),
    (PullFailure.DISK, ("no space left on device", "disk quota exceeded")),
    (PullFailure.PLATFORM, ("no matching manifest", "does not match the specified platform")),
    (
        PullFailure.LOGIN,
        (
            "unauthorized", "no basic auth credentials", "authentication required", "denied",
            "incorrect username or password", "403 forbidden", "may require 'docker login'",
        ),
    ),
    (
        PullFailure.MISSING,
        ("manifest unknown", "name unknown", "not found", "does not exist", "invalid reference"),
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PullContext:
    """The image that was pulled: its reference, the login that was used, and the platform."""

    reference: str
    login: str
    platform: str


def failure_of(message: str) -> PullFailure:
    """Return what the last lines of a pull mean."""
    text = message.lower()
    for failure, signs in _SIGNS:
        if any(sign in text for sign in signs):
            return failure
    return PullFailure.UNREACHABLE


def explain(failure: PullFailure, context: PullContext, message: str) -> str:
    """Return what failed and the remedy, with the last lines of the engine."""
    reference = context.reference
    what = {
        PullFailure.MISSING: (
            f"the image {reference} does not exist; check its name and tag, and push it"
        ),
        PullFailure.LOGIN: f"the registry refuses {reference}; {_login_remedy(context.login)}",
        PullFailure.PLATFORM: (
            f"the image {reference} is not for {context.platform}, as this machine is; build it "
            "for that platform, or choose other instance types"
        ),
        PullFailure.DISK: (
            f"the image {reference} does not fit on the instance's disk; choose a smaller image "
            "or a larger disk"
        ),
        PullFailure.LIMIT: (
            f"the registry limits how often {reference} is pulled; use a login (docker.login), or "
            "copy the image to ECR"
        ),
        PullFailure.UNREACHABLE: f"the image {reference} could not be pulled",
    }[failure]
    return f"{what}: {message}"


def _login_remedy(login: str) -> str:
    if login == "ecr":
        return (
            "the instance role may not pull from this repository; for one of another account, "
            "permit it in the repository's policy"
        )
    if login:
        return f"it does not accept the login in {login}; correct the secret's username or password"
    return (
        "it does not exist, or is private: then give a login (--docker-login secret:NAME) whose "
        'value is {"username": …, "password": …}'
    )
