"""The permission that an attempt needs on its instance, tested with a call that changes nothing."""

from runctl.aws.credentials_function import AGENT, CredentialsFunction, Refused
from runctl.model.errors import RefusedError, RunctlError


def find_problem(function: CredentialsFunction) -> str:
    """Return why this instance would get no credentials for an attempt, empty if it would.

    Everything else that an attempt does is permitted by those, not by the role of the instance.
    """
    try:
        answer = function.ask(AGENT)
    except RefusedError as exc:
        return (
            f"the role of this instance lacks lambda:InvokeFunction on {function.name}, which the "
            f"policy of the deployment permits: {exc}"
        )
    except RunctlError as exc:
        return f"lambda:InvokeFunction on {function.name} cannot be tested: {exc}"
    if isinstance(answer, Refused):
        return f"this instance would get no credentials: {answer.reason}"
    return ""
