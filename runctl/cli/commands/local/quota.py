"""`runctl local quota`: the vCPUs that a quota allows."""

from __future__ import annotations

from typing import Annotated

import typer

from runctl.cli.commands.local.local_cloud import open_client
from runctl.cli.endpoint import find_local_cloud
from runctl.cli.invocation import Invocation
from runctl.local.client import LocalCloudError
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.quota import QUOTAS


def quota(
    invocation: Invocation,
    code: Annotated[
        str,
        typer.Argument(
            metavar="CODE", help="L-34B43A08 for Spot Instances of the standard families."
        ),
    ],
    vcpus: Annotated[int, typer.Argument(metavar="N", min=0, help="Number of vCPUs.")],
) -> None:
    """Set the number of vCPUs that a quota of the account allows."""
    client = open_client(find_local_cloud())
    try:
        client.set_quota(code, vcpus)
    except LocalCloudError as exc:
        raise InvalidRequestError(
            (Problem("CODE", str(exc).removeprefix("vcpu_quotas: ")),)
        ) from exc
    invocation.output.result(
        {"code": code, "name": QUOTAS[code].name, "vcpus": vcpus},
        f"{QUOTAS[code]} is {vcpus} vCPUs",
    )
