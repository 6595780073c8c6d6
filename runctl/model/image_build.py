"""Builds of images: their input, and how they end."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runctl.model.docker_options import DockerOptions
from runctl.model.image_reference import parse_image_reference

CODE_KEY_LENGTH = 64
_OWN = "[Container] "
_COMMANDS = ("Running command (", "Command did not exit successfully (")


@dataclass(frozen=True, kw_only=True)
class BuildPlace:
    """Where a deployment builds images: the URIs of its repositories, and its projects.

    `projects` has the CodeBuild project of each platform. `mirror` is the address under which ECR
    caches images of Docker Hub, empty without one.
    """

    repository: str = ""
    cache_repository: str = ""
    projects: Mapping[str, str]
    mirror: str = ""


@dataclass(frozen=True, kw_only=True)
class BuildOrder:
    """An image to build: its tags, its platform, and the variables of the build."""

    tag: str
    platform: str
    project: str
    variables: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class EndedBuild:
    """A build as CodeBuild describes it; `lines` are the last of its output."""

    status: str
    lines: tuple[str, ...] = ()


class BuildLines:
    """Separates the output of a build from what CodeBuild writes about it.

    CodeBuild begins its own lines with `[Container]`, and repeats the commands of the buildspec,
    which are in parentheses, when they start and when they fail.
    """

    def __init__(self) -> None:
        self._is_command = False

    def is_output(self, line: str) -> bool:
        """Whether the next line of the log is output of the build."""
        if self._is_command:
            self._is_command = not line.startswith(")")
            return False
        if line.startswith(_OWN):
            self._is_command = line.rstrip().endswith(_COMMANDS)
            return False
        return True


def order_build(
    docker: DockerOptions,
    place: BuildPlace,
    *,
    code: str,
    tag: str,
    cache_tag: str,
    platform: str,
    base_images: Sequence[str] = (),
) -> BuildOrder:
    """Return the order for an image; raises LookupError if no project builds for the platform.

    Values that may contain any character are encoded, so that no shell reads them.
    """
    name = code.rpartition("/")[2].removesuffix(".tar.gz")
    is_digest = len(name) == CODE_KEY_LENGTH and not set(name) - set("0123456789abcdef")
    return BuildOrder(
        tag=tag,
        platform=platform,
        project=place.projects[platform],
        variables={
            "RUNCTL_CODE": code,
            "RUNCTL_CODE_SHA256": name if is_digest else "",
            "RUNCTL_DOCKERFILE": docker.dockerfile,
            "RUNCTL_TARGET": docker.target,
            "RUNCTL_BUILD_ARGS": _encoded(docker.build_args),
            "RUNCTL_BUILD_SECRETS": _encoded(docker.build_secrets),
            "RUNCTL_LOGIN": docker.login.removeprefix("secret:"),
            "RUNCTL_REGISTRIES": " ".join(_registries(place, base_images)),
            "RUNCTL_REPOSITORY": place.repository,
            "RUNCTL_TAG": tag,
            "RUNCTL_CACHE_REPOSITORY": place.cache_repository,
            "RUNCTL_CACHE_TAG": cache_tag,
            "RUNCTL_PLATFORM": platform,
            "RUNCTL_MIRROR": place.mirror,
        },
    )


def _registries(place: BuildPlace, base_images: Sequence[str]) -> list[str]:
    """Return the hosts of the ECR that a build logs in to."""
    hosts = {place.repository.partition("/")[0]: None}
    for text in base_images:
        reference = parse_image_reference(text)
        if reference is not None and reference.ecr_account:
            hosts[reference.host] = None
    return list(hosts)


def _encoded(values: Mapping[str, str]) -> str:
    """Return NAME=VALUE of each, in base64, separated by spaces."""
    pairs = (f"{name}={value}" for name, value in sorted(values.items()))
    return " ".join(base64.b64encode(pair.encode()).decode() for pair in pairs)
