"""`runctl local capacity`: the number of instances that a pool holds."""

from __future__ import annotations

from typing import Annotated

import typer

from runctl.cli.commands.local.local_cloud import open_client
from runctl.cli.endpoint import find_local_cloud
from runctl.cli.invocation import Invocation
from runctl.local.client import LocalCloudError
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.pool import Pool


def capacity(
    invocation: Invocation,
    pool: Annotated[
        str, typer.Argument(metavar="POOL", help="m5.large/us-east-1a/spot; * for all other pools.")
    ],
    count: Annotated[int, typer.Argument(metavar="N", min=0, help="Number of instances.")],
) -> None:
    """Set the number of instances that a capacity pool offers."""
    if pool != "*":
        try:
            Pool.parse(pool)
        except ValueError as exc:
            raise InvalidRequestError((Problem("POOL", str(exc)),)) from exc
    client = open_client(find_local_cloud())
    try:
        client.set_capacity(pool, count)
    except LocalCloudError as exc:
        raise InvalidRequestError((Problem("POOL", str(exc).removeprefix("pool: ")),)) from exc
    invocation.output.result({"pool": pool, "capacity": count}, f"{pool} holds {count}")
