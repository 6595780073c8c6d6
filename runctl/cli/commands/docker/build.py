"""`runctl docker build`: build a project's image with the Docker of this machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runctl.cli.commands.aws.docker_choice import DockerChoice, choose_dockerfile
from runctl.cli.commands.aws.local_build import build_here, push, repository_of, tag_of
from runctl.cli.commands.aws.option_values import split_commas
from runctl.cli.invocation import Invocation
from runctl.cli.project.package import pack_project
from runctl.cli.project.scan import scan_project
from runctl.model.docker_options import DockerOptions
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.instance_types import check_instance_types
from runctl.model.resource_options import DEFAULT_INSTANCE_TYPES
from runctl.policy.platforms import choose_platform

if TYPE_CHECKING:
    from runctl.cli.project.settings import Settings


def build(
    invocation: Invocation,
    project: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="The project's folder (default: the nearest with .runctl.toml or .git).",
        ),
    ] = "",
    dockerfile: Annotated[
        str, typer.Option(metavar="PATH", help="Build from this file of the project.")
    ] = "",
    target: Annotated[
        str, typer.Option(metavar="STAGE", help="Build this stage of the Dockerfile.")
    ] = "",
    instance_types: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPES",
            help="Build for the machines of these types (default: those of the settings).",
        ),
    ] = None,
    push_it: Annotated[
        bool, typer.Option("--push", help="Push the image to the deployment's ECR.")
    ] = False,
    push_to: Annotated[
        str, typer.Option(metavar="REPOSITORY", help="Push the image there instead.")
    ] = "",
) -> None:
    """Build a project's image with the Docker of this machine, as a run would build it.

    Build arguments and secrets are those of the settings file.
    """
    folder = Path(os.path.realpath(Path.cwd() / project)) if project else invocation.find_project()
    settings = invocation.settings(folder, is_named=bool(project))
    platform = choose_platform(_types(instance_types, settings))
    packed = scan_project(folder, largest_bytes=settings.largest_project_bytes)
    docker = _options(settings, dockerfile=dockerfile, target=target)
    path = choose_dockerfile(
        DockerChoice(use=True),
        {"docker.dockerfile": docker.dockerfile, "docker.target": docker.target},
        settings,
        packed,
        has_program=True,
    )
    docker = _options(settings, dockerfile=path, target=target)
    needs_cloud = (push_it and not push_to) or bool(docker.build_secrets)
    cloud = invocation.connect(settings) if needs_cloud else None
    repository = push_to or ("runctl" if cloud is None or not push_it else repository_of(cloud))
    document: dict[str, Any]
    with tempfile.TemporaryDirectory(prefix="runctl-") as scratch:
        package = pack_project(packed, Path(scratch, "package.tar.gz"))
        tag = tag_of(package.path, docker, platform=platform)
        if (
            cloud is not None
            and push_it
            and not push_to
            and (found := cloud.images.find_built(tag))
        ):
            # Tags are immutable: a second push would be refused, even of the same image.
            document = {"image": found.image.reference, "platform": platform, "pushed": False}
            invocation.output.result(document, f"{found.image.reference} exists: nothing is built")
            return
        name = build_here(package.path, docker, tag, platform, cloud, repository=repository)
    document = {"image": name, "platform": platform, "pushed": False}
    if push_it or push_to:
        document |= {"image": push(name, cloud, is_own=not push_to), "pushed": True}
    said = "pushed" if document["pushed"] else "built"
    invocation.output.result(document, f"{said} {document['image']} for {platform}")


def _types(given: list[str] | None, settings: Settings) -> list[str]:
    types = split_commas(given or ()) or settings.request.get("instance_types")
    types = list(types or DEFAULT_INSTANCE_TYPES)
    if problem := check_instance_types(types):
        raise InvalidRequestError((Problem("--instance-types", problem),))
    return types


def _options(settings: Settings, *, dockerfile: str, target: str) -> DockerOptions:
    """Return what the build reads of the settings and options."""
    found = settings.request.get("docker", {})
    return DockerOptions(
        dockerfile=dockerfile or found.get("dockerfile", ""),
        target=target or found.get("target", ""),
        build_args=found.get("build_args", {}),
        build_secrets=found.get("build_secrets", {}),
    )
