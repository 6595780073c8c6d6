"""The access of an instance to AWS, from the settings that its bootstrap has written."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from runctl.aws.clients import Clients, Connection
from runctl.aws.credentials_function import AGENT, CredentialsFunction
from runctl.aws.instance_identity import InstanceRole, prove_identity
from runctl.aws.issued_credentials import IssuedCredentials
from runctl.model.errors import SettingsError

REQUIRED = ("RUNCTL_CREDENTIALS_FUNCTION", "RUNCTL_DEPLOYMENT", "RUNCTL_REGION")


@dataclass(frozen=True)
class InstanceAccess:
    """The session of the attempt that all clients of a process sign with, and its source.

    The role of the instance itself may do little more than ask for that.
    """

    credentials: IssuedCredentials
    function: CredentialsFunction
    region: str

    def clients(self, *, region: str = "", attempts: int = 4) -> Clients:
        """Return clients that sign with the session."""
        connection = Connection(region=region or self.region, credentials=self.credentials)
        return Clients(connection, attempts=attempts)


Claim = Callable[[], Mapping[str, Any]]


def open_access(environ: Mapping[str, str] = os.environ, *, claim: Claim = dict) -> InstanceAccess:
    """Begin to ask for the session of this instance. Raises SettingsError.

    `claim` returns the run and the attempt that this instance takes for its own.
    """
    function = credentials_function(environ, claim=claim)
    return InstanceAccess(
        IssuedCredentials(lambda: function.ask(AGENT)).start(), function, environ["RUNCTL_REGION"]
    )


def credentials_function(
    environ: Mapping[str, str] = os.environ, *, claim: Claim = dict
) -> CredentialsFunction:
    """Return the function that issues the sessions. Raises SettingsError."""
    if missing := [name for name in REQUIRED if not environ.get(name)]:
        raise SettingsError(f"agent.env lacks {', '.join(missing)}")
    role, region, deployment = (
        InstanceRole(),
        environ["RUNCTL_REGION"],
        environ["RUNCTL_DEPLOYMENT"],
    )
    endpoint = environ.get("AWS_ENDPOINT_URL_STS") or environ.get("AWS_ENDPOINT_URL", "")
    # Its own tries have pauses of their own.
    clients = Clients(Connection(region=region, credentials=role), attempts=2)
    return CredentialsFunction(
        environ["RUNCTL_CREDENTIALS_FUNCTION"],
        client=lambda: clients.get("lambda"),
        prove=lambda: prove_identity(role, region=region, deployment=deployment, endpoint=endpoint),
        claim=claim,
    )
