"""The command line of a trainer, from the request's command or script."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from runctl.agent.runtime.world import World
from runctl.beneath.folder import Folder
from runctl.model.contract import expand
from runctl.model.errors import RequestError
from runctl.model.kinds import SERVE
from runctl.model.line_endings import HEAD_BYTES, problem_with_line_endings
from runctl.model.request import RunRequest
from runctl.model.script_kinds import ScriptKind, kind_of_script, problem_with_script


def trainer_command(
    request: RunRequest,
    script: str,
    *,
    project: Path,
    python: str,
    variables: Mapping[str, str],
    resumes: bool,
    world: World | None = None,
) -> list[str]:
    """Return a trainer's command line, with references to `variables` replaced.

    `python` is the interpreter of a script in Python, which torch's launcher starts if there are
    other nodes in its `world`. The result is empty for the program of an image.
    """
    words = list(request.program.command)
    if script and not words:
        words = _words_of(script, project=project, python=python, world=world)
        words += request.program.args
        if request.kind == SERVE:
            words += request.serve.arguments
    return expand([*words, *(request.program.resume_args if resumes else ())], variables)


def needs_launcher(request: RunRequest, script: str, project: Path) -> bool:
    """Whether torch's launcher starts the processes of a node: those of a script in Python."""
    if not script or request.program.command:
        return False
    with _opened(project, script) as file:
        return kind_of_script(script, os.read(file, HEAD_BYTES)) is ScriptKind.PYTHON


def _words_of(script: str, *, project: Path, python: str, world: World | None) -> list[str]:
    with _opened(project, script) as file:
        head = os.read(file, HEAD_BYTES)
        kind = kind_of_script(script, head)
        if kind is ScriptKind.ITSELF:
            os.fchmod(file, os.fstat(file).st_mode | 0o111)
    for problem in (problem_with_line_endings(script, head), problem_with_script(script, head)):
        if problem:
            raise RequestError(f"{script} {problem}")
    if kind is ScriptKind.BASH:
        return ["bash", script]
    if kind is ScriptKind.ITSELF:
        return [str(project / script)]
    return [python, script] if world is None else [*world.launcher(python), script]


@contextlib.contextmanager
def _opened(project: Path, script: str) -> Iterator[int]:
    """Open the script; a program that has run before may have replaced it by a link."""
    with Folder.opened(project) as folder:
        file = folder.open_inside(script)
    try:
        yield file
    finally:
        os.close(file)
