"""`runctl local down`: stop the local cloud."""

from __future__ import annotations

from runctl.cli.commands.local.local_cloud import translated
from runctl.cli.invocation import Invocation
from runctl.local.daemon import default_home, stop


def down(invocation: Invocation) -> None:
    """End the local cloud with all its instances; its runs are gone with it."""
    with translated(), invocation.output.spinner("ending the local cloud"):
        was_up = stop()
    told = "the local cloud is down" if was_up else f"no local cloud ran in {default_home()}"
    invocation.output.result({"was_up": was_up}, told)
