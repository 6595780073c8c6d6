"""The settings of an agent, as tests need them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from runctl.agent.instance.paths import Paths
from runctl.agent.instance.settings import Settings


def make_settings(root: Path, **changes: Any) -> Settings:
    """Return the settings of the first attempt of a run, whose files are below `root`."""
    settings = Settings(
        paths=Paths(root),
        run_id="run-1",
        attempt=1,
        instance_id="i-1",
        table="table",
        bucket="bucket",
        log_group="group",
        region="us-east-1",
    )
    return replace(settings, **changes)
