"""The command line of a trainer, from the request's command or script."""

from collections.abc import Mapping
from pathlib import Path

from runctl.agent.runtime.world import World
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
    with (project / script).open("rb") as stream:
        return kind_of_script(script, stream.read(HEAD_BYTES)) is ScriptKind.PYTHON


def _words_of(script: str, *, project: Path, python: str, world: World | None) -> list[str]:
    path = project / script
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    for problem in (problem_with_line_endings(script, head), problem_with_script(script, head)):
        if problem:
            raise RequestError(f"{script} {problem}")
    kind = kind_of_script(script, head)
    if kind is ScriptKind.BASH:
        return ["bash", script]
    if kind is ScriptKind.ITSELF:
        path.chmod(path.stat().st_mode | 0o111)
        return [str(path)]
    return [python, script] if world is None else [*world.launcher(python), script]
