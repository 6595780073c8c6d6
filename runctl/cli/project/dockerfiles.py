"""The Dockerfile of a project: the one that is named, or the first of the usual places."""

import os
from pathlib import Path

from runctl.cli.project.folder import read_regular_file
from runctl.cli.project.scan import Project
from runctl.model.build_context import MAX_DOCKERFILE_BYTES
from runctl.model.dockerfile import parse_dockerfile
from runctl.model.errors import InvalidRequestError, Problem

PLACES = ("Dockerfile", "Dockerfile.train", "docker/Dockerfile", "training/Dockerfile")
_OPTION = "--dockerfile"


def find_dockerfile(project: Project) -> str:
    """Return the project's Dockerfile in the usual places, empty if it packs none."""
    paths = {member.path for member in project.members if not member.is_folder}
    return next((place for place in PLACES if place in paths), "")


def locate_dockerfile(given: str, project: Project, *, here: Path) -> str:
    """Return a Dockerfile's path in the project; `given` is relative to `here` or the project."""
    top = Path(os.path.realpath(project.folder))
    for base in (here, project.folder):
        found = Path(os.path.normpath(base / given))
        found = Path(os.path.realpath(found.parent)) / found.name
        if not found.is_file():
            continue
        if not found.is_relative_to(top):
            raise _bad(f"{given!r} is outside the project {project.folder}; move it there")
        path = found.relative_to(top).as_posix()
        if all(member.path != path for member in project.members):
            raise _bad(
                f"{given!r} is left out of the package; add the line !/{path} to .runctlignore"
            )
        return path
    raise _bad(f"{given!r} does not exist in {project.folder}; correct the path")


def check_dockerfile(project: Project, path: str, *, target: str, has_program: bool) -> None:
    """Refuse a Dockerfile that PrepareRun would refuse, before anything is uploaded.

    `has_program` says that the run does not need the image's own command.
    """
    try:
        text = read_regular_file(project.folder / path, most=MAX_DOCKERFILE_BYTES).decode()
        dockerfile = parse_dockerfile(text)
    except ValueError as exc:  # not UTF-8, or without a stage
        raise _bad(f"{path}: {exc}") from exc
    if dockerfile.index_of(target) is None:
        known = ", ".join(dockerfile.stage_names) or "none has a name"
        raise InvalidRequestError(
            (Problem("--docker-target", f"{path} has no stage {target!r}; its stages: {known}"),)
        )
    if not has_program and dockerfile.has_command(target) is False:
        raise _bad(
            f"{path} has neither CMD nor ENTRYPOINT; add one of them, or give a script: "
            "`runctl aws train SCRIPT`"
        )


def _bad(message: str) -> InvalidRequestError:
    return InvalidRequestError((Problem(_OPTION, message),))
