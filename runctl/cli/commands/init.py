"""`runctl init`: write a settings file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runctl.cli.invocation import Invocation
from runctl.cli.project.folder import SETTINGS_FILE
from runctl.cli.project.settings import TEMPLATE
from runctl.model.errors import SettingsError


def init(
    invocation: Invocation,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write .runctl.toml with default settings for runs in this folder."""
    path = Path.cwd() / SETTINGS_FILE
    try:
        with path.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(TEMPLATE)
    except FileExistsError as exc:
        raise SettingsError(f"{path} already exists; --force overwrites it") from exc
    invocation.output.result(
        {"written": str(path)}, f"wrote {path}; next: `runctl aws train SCRIPT`"
    )
