"""The AWS credentials of a program that requests some, for as long as it runs."""

import contextlib
from collections.abc import Iterator, Mapping

from runctl.agent.instance.settings import Settings
from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.credentials import CredentialsEndpoint
from runctl.agent.signals.waiting import CancellableWait
from runctl.aws.services import AwsServices
from runctl.model.errors import RefusedError, RequestError
from runctl.model.request import RunRequest


@contextlib.contextmanager
def serve_credentials(
    request: RunRequest,
    settings: Settings,
    services: AwsServices,
    *,
    progress: Progress,
    wait: CancellableWait,
) -> Iterator[Mapping[str, str]]:
    """Serve the credentials that a program requests; yield the variables that lead it to them.

    There are none if it requests none. Raises RequestError if its role cannot be assumed.
    """
    if not request.wants_credentials:
        yield {}
        return
    if not settings.trainer_role:
        raise RequestError(
            "credentials: the deployment has no role for trainers; update it with `runctl deploy`"
        )
    access = services.trainer_access(
        settings.trainer_role, run_id=settings.run_id, attempt=settings.attempt
    )
    endpoint = CredentialsEndpoint(access.fetch, progress=progress)
    try:
        wait.retry(endpoint.start)
    except RefusedError as exc:
        raise RequestError(f"credentials: the trainer's role cannot be assumed: {exc}") from exc
    try:
        yield endpoint.as_environment()
    finally:
        endpoint.close()
