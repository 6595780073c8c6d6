"""`runctl local env`: the variables that point AWS tools at the local cloud."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runctl.cli.commands.local.local_cloud import deployed_stacks, names_of
from runctl.cli.endpoint import find_local_cloud
from runctl.cli.invocation import Invocation

if TYPE_CHECKING:
    from runctl.local.daemon import Endpoint


def env(invocation: Invocation) -> None:
    """Print the environment variables by which AWS tools use the local cloud."""
    endpoint = find_local_cloud()
    names: dict[str, str] = {}
    if deployed_stacks(endpoint):
        invocation.local = True
        names = names_of(invocation.cloud.deployment)
    lines = [*_exports(endpoint), *(f"export {name}={value}" for name, value in names.items())]
    invocation.output.result({**endpoint.environment(), **names}, "\n".join(lines))


def _exports(endpoint: Endpoint) -> list[str]:
    """Return the shell commands that set the variables."""
    variables = endpoint.environment()
    groups = (
        ("AWS_ENDPOINT_URL",),
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_REGION", "AWS_DEFAULT_REGION"),
    )
    return [f"export {' '.join(f'{name}={variables[name]}' for name in group)}" for group in groups]
