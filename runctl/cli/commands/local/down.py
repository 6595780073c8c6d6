"""`runctl local down`: stop the local cloud."""

from __future__ import annotations

from runctl.cli.commands.local.local_cloud import translated
from runctl.cli.invocation import Invocation
from runctl.local.daemon import default_home, stop


def down(invocation: Invocation) -> None:
    """Stop the local cloud and all of its instances; its runs are lost."""
    with translated(), invocation.output.spinner("stopping the local cloud"):
        was_up = stop()
    stopped = "stopped the local cloud"
    none = f"no local cloud was running in {default_home()}"
    invocation.output.result({"was_up": was_up}, stopped if was_up else none)
