"""Which instance sends a request to a function, by the identity that it has signed."""

import re
from collections.abc import Mapping
from typing import Any

from runctl.control.ports.access import ProofServices
from runctl.model.caller import BadIdentityError, Caller

INSTANCE_ID = re.compile(r"i-[0-9a-f]{4,32}")
# What an instance sends of its own accord is short; anything else was made by somebody else.
MAX_URL_CHARACTERS = 8192


def identify_instance(services: ProofServices, event: Mapping[str, Any]) -> Caller:
    """Return who signed the identity in a request: a session with the name of an instance.

    Its role is still to be checked, because a principal that assumes a role chooses the name of the
    session, except for EC2. Raises BadIdentityError for anything else, and TransientError if STS
    cannot be reached.
    """
    caller = services.identities.verify(_url(event))
    if caller.account != services.instance_roles.account:
        raise BadIdentityError(f"identity: the account {caller.account} is not the deployment's")
    if not INSTANCE_ID.fullmatch(caller.session):
        raise BadIdentityError("identity: not the session of an instance")
    return caller


def problem_with_role(services: ProofServices, caller: Caller) -> str:
    """Return why the role is not that of the instances that we launch; empty if it is."""
    if caller.role == services.instance_roles.own:
        return ""
    return f"identity: {caller.role} is not the role of the deployment's instances"


def _url(event: Mapping[str, Any]) -> str:
    found = event.get("identity")
    url = found.get("url") if isinstance(found, Mapping) else None
    if not isinstance(url, str) or len(url) > MAX_URL_CHARACTERS:
        raise BadIdentityError("identity.url: missing, or not the URL of a request to STS")
    return url
