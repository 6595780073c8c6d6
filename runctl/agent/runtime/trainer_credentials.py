"""The AWS credentials of a program that requests some, for as long as it runs."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.credentials import CredentialsEndpoint
from runctl.agent.signals.waiting import CancellableWait
from runctl.model.errors import RefusedError, RequestError
from runctl.model.request import RunRequest
from runctl.model.session_credentials import SessionCredentials


@contextlib.contextmanager
def serve_credentials(
    request: RunRequest,
    session: Callable[[], SessionCredentials],
    *,
    progress: Progress,
    wait: CancellableWait,
) -> Iterator[Mapping[str, str]]:
    """Serve the credentials that a program requests; yield the variables that lead it to them.

    There are none if it requests none. `session` returns a new session of the trainer. Raises
    RequestError if there is none for it.
    """
    if not request.wants_credentials:
        yield {}
        return
    endpoint = CredentialsEndpoint(session, progress=progress)
    try:
        wait.retry(endpoint.start)
    except RefusedError as exc:
        raise RequestError(f"credentials: the trainer gets none: {exc}") from exc
    try:
        yield endpoint.as_environment()
    finally:
        endpoint.close()
