"""Whether a run uses a container, and which: from options, settings and the project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runctl.cli.project.dockerfiles import (
    PLACES,
    check_dockerfile,
    find_dockerfile,
    locate_dockerfile,
)
from runctl.cli.project.scan import Project
from runctl.cli.project.settings import Settings
from runctl.model.docker_options import BUILD_ONLY, SOURCES
from runctl.model.errors import InvalidRequestError, Problem

USE, IMAGE = "--use-docker", "--docker-image"
CLOUD, LOCAL = "cloud", "local"


@dataclass(frozen=True, kw_only=True)
class DockerChoice:
    """The options of `runctl aws train` about containers that are not fields of the request.

    `build` is where an image is built; a local one goes to the repository `push_to`, by default the
    deployment's own, or to the instance without a registry.
    """

    use: bool = False
    avoid: bool = False
    build: str = CLOUD
    no_push: bool = False
    push_to: str = ""

    def problem(self) -> Problem | None:
        """Return the contradiction between the options, if there is one."""
        if self.use and self.avoid:
            return Problem("--no-docker", f"mutually exclusive with {USE}; give one of them")
        if self.build not in (CLOUD, LOCAL):
            return Problem("--build", f"{self.build!r} is not a place; known: {CLOUD}, {LOCAL}")
        if self.build == CLOUD and (self.no_push or self.push_to):
            option = "--no-push" if self.no_push else "--push-to"
            return Problem(option, f"only with --build {LOCAL}; add it, or remove {option}")
        if self.no_push and self.push_to:
            return Problem("--push-to", "mutually exclusive with --no-push; give one of them")
        return None


def take_docker_words(words: Sequence[str]) -> tuple[tuple[str, ...], bool, str]:
    """Take runctl's options about containers from the words of a script, up to a word `--`.

    Returns the other words, whether a container is required, and the image. No other option of
    runctl is recognized after the script: these two are meant for runctl wherever they stand.
    """
    end = words.index("--") if "--" in words else len(words)
    kept: list[str] = []
    use, image = False, ""
    own = iter(words[:end])
    for word in own:
        if word == USE:
            use = True
        elif word == IMAGE:
            image = next(own, "")
            if not image:
                raise _bad(IMAGE, "needs an image; write --docker-image registry/name:tag")
        elif word.startswith(f"{IMAGE}="):
            image = word.partition("=")[2]
        else:
            kept.append(word)
    return (*kept, *words[end:]), use, image


def without_overridden(
    choice: DockerChoice, options: Mapping[str, Any], settings: Settings
) -> Settings:
    """Return the settings without the image that options replace, or without any container.

    With an image, nothing is built, so the settings of a build do not count.
    """
    docker = settings.request.get("docker")
    if not isinstance(docker, Mapping):
        return settings
    names: Sequence[str] = ()
    if choice.avoid:
        names = list(docker)
    elif any(options.get(f"docker.{source}") for source in SOURCES):
        names = (*SOURCES, *BUILD_ONLY) if options.get("docker.image") else SOURCES
    left = {name: value for name, value in docker.items() if name not in names}
    request = {name: value for name, value in settings.request.items() if name != "docker"}
    return replace(settings, request={**request, "docker": left} if left else request)


def given_source(source: str, options: Mapping[str, Any], settings: Settings) -> str:
    """Return the image, the Dockerfile or the archive that options or settings give."""
    docker = settings.request.get("docker")
    value = options.get(f"docker.{source}")
    if value is None and isinstance(docker, Mapping):
        value = docker.get(source)
    return value if isinstance(value, str) else ""


def choose_dockerfile(
    choice: DockerChoice,
    options: Mapping[str, Any],
    settings: Settings,
    project: Project | None,
    *,
    has_program: bool,
) -> str:
    """Return the Dockerfile to build, empty for a run without one.

    Raises InvalidRequestError if a container is required and the project has no Dockerfile, or if
    its Dockerfile cannot be used.
    """
    given = given_source("dockerfile", options, settings)
    if choice.avoid:
        if given or given_source("image", options, settings):
            raise _bad("--no-docker", "not allowed with an image or a Dockerfile; remove one")
        return ""
    if given_source("image", options, settings):
        return ""
    if project is None:
        if choice.use:
            raise _bad(USE, "a script in S3 has no project to build; give --docker-image")
        return given
    here = Path.cwd()
    path = locate_dockerfile(given, project, here=here) if given else find_dockerfile(project)
    if not path and choice.use:
        raise _bad(
            USE,
            f"the project has no Dockerfile (looked for {', '.join(PLACES)}); write one, or name "
            f"it with --dockerfile, or give {IMAGE}",
        )
    if path:
        target = given_source("target", options, settings)
        check_dockerfile(project, path, target=target, has_program=has_program)
    return path


def _bad(option: str, message: str) -> InvalidRequestError:
    return InvalidRequestError((Problem(option, message),))
