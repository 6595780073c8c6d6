"""The identity of an instance: the credentials of its role, and a proof that it has them."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import botocore.session
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest

from runctl.aws.errors import translated
from runctl.model.errors import TransientError

# How often an instance asks for the credentials of its role, and the seconds in between.
TRIES = 20
PAUSE = 0.5
# What the signature of an identity covers: it is worthless to any other deployment or service.
DEPLOYMENT_HEADER = "x-runctl-deployment"
LIFETIME = 60
QUERY = "Action=GetCallerIdentity&Version=2011-06-15"


class InstanceRole:
    """The credentials that the metadata service gives this instance, and no others.

    Variables and profiles on a machine that belongs to somebody are of no concern to its agent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: Any = None

    def load(self) -> Any:
        """Return botocore's credentials, or None if the instance has no role.

        Waits for some time: a client that gets none, because the machine is busy or the role is
        very new, never asks again.
        """
        with self._lock, translated():
            for number in range(TRIES):
                if self._held is None:
                    self._held = _ask_metadata()
                if self._held is not None or number == TRIES - 1:
                    break
                time.sleep(PAUSE)
            return self._held

    def replace_expired(self) -> bool:
        """Return False: botocore renews what the metadata service gave, by the clock."""
        return False


def _ask_metadata() -> Any:
    chain = botocore.session.Session().get_component("credential_provider")
    return chain.get_provider("iam-role").load()


def prove_identity(
    role: InstanceRole, *, region: str, deployment: str, endpoint: str = ""
) -> Mapping[str, str]:
    """Return a request to STS, valid for a minute, whose answer names this instance.

    Its holder can send only this request, together with the name of the deployment. Raises
    TransientError while the instance has no credentials.
    """
    held = role.load()
    if held is None:
        raise TransientError("the metadata service has no credentials of a role for this instance")
    url = f"{endpoint.rstrip('/') or _regional_endpoint(region)}/?{QUERY}"
    request = AWSRequest(method="GET", url=url, headers={DEPLOYMENT_HEADER: deployment})
    with translated():
        frozen = held.get_frozen_credentials()
        SigV4QueryAuth(frozen, "sts", region, expires=LIFETIME).add_auth(request)
    return {"url": str(request.url)}


def _regional_endpoint(region: str) -> str:
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://sts.{region}.{suffix}"
