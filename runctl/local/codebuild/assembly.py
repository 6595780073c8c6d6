"""CodeBuild of a local cloud, put together."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from runctl.local.codebuild.api import Builds
from runctl.local.codebuild.engine import BuildEngine
from runctl.local.codebuild.execution import PACKAGE_ROOT, BuildHost
from runctl.local.core.events import EventBus
from runctl.local.core.knobs import Knobs

_MAIN_OF_OWN_AWS = (
    f"import sys; sys.path.insert(0, {str(PACKAGE_ROOT)!r}); "
    "from runctl.local.codebuild.aws_program import main; main()"
)
_OWN_AWS = [sys.executable, "-I", "-c", _MAIN_OF_OWN_AWS]


def assemble_builds(
    home: Path, *, endpoint: str, knobs: Knobs, bus: EventBus, no_engine: str
) -> Builds:
    """Let ministack's CodeBuild execute builds below a local cloud's folder, once.

    `no_engine` is why there can be no Docker engine, or empty.
    """
    folder = home / "builds"
    if folder.exists():  # left by a local cloud that was killed
        shutil.rmtree(folder)
    programs = folder / "bin"
    programs.mkdir(mode=0o700, parents=True)
    aws = Path(sys.executable).with_name("aws")
    _write_program(programs / "aws", [str(aws)] if aws.exists() else _OWN_AWS)
    host = BuildHost(
        folder=folder,
        endpoint=endpoint,
        engine=BuildEngine(home / "tmp/engine", why_not=no_engine),
        programs=programs,
        knobs=knobs,
    )
    builds = Builds(host, bus)
    builds.install()
    return builds


def _write_program(path: Path, command: list[str]) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o700)
