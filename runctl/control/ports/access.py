"""The services with which instances are identified and given sessions: ports."""

from typing import Protocol

from runctl.control.ports.services import Services
from runctl.model.caller import Caller
from runctl.model.session_credentials import SessionCredentials
from runctl.policy.run_access import Grant


class Identities(Protocol):
    """Proofs of who somebody is."""

    def verify(self, url: str) -> Caller:
        """Return who signed a request to STS.

        BadIdentityError for any other request, and one that STS refuses. TransientError if STS
        cannot be reached.
        """
        ...


class InstanceRoles(Protocol):
    """The roles of instances."""

    @property
    def account(self) -> str:
        """The account of the deployment."""
        ...

    @property
    def own(self) -> str:
        """The name of the role of the instances that the deployment launches."""
        ...

    def role_of(self, instance_id: str) -> str | None:
        """Return the name of the role of an instance, None if there is none."""
        ...


class Sessions(Protocol):
    """Sessions of the roles of runs and of their trainers."""

    def open(self, grant: Grant) -> SessionCredentials:
        """Return the credentials of a new session.

        RequestError if the request names too much for one. A lost answer costs nothing.
        """
        ...


class ProofServices(Protocol):
    """The services with which a function identifies the instance that calls it."""

    @property
    def identities(self) -> Identities:
        """The proofs of callers."""
        ...

    @property
    def instance_roles(self) -> InstanceRoles:
        """The roles of instances."""
        ...


class AccessServices(Services, ProofServices, Protocol):
    """The services of the function that issues credentials."""

    @property
    def run_sessions(self) -> Sessions:
        """The sessions for runs."""
        ...
