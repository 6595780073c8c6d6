"""The fields of a run request about its container image."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runctl.model.errors import Problem
from runctl.model.image_reference import parse_image_reference
from runctl.model.request_checks import ENV_NAME, check_strings, is_inside_project, json_type
from runctl.model.request_fields import Option, Syntax, text, variables
from runctl.model.s3_uri import S3_URI
from runctl.model.secret_references import BadReferenceError, Store, parse_reference

# CodeBuild accepts 5,500 characters in all variables of a build together.
MAX_BUILD_ARGS_BYTES = 4000
SOURCES = ("image", "dockerfile", "archive")
BUILD_ONLY = ("target", "build_args", "build_secrets")
_SECRET_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TARGET = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def check_image(value: Any) -> str | None:
    """Check the reference of an existing image."""
    if value == "":
        return None
    if isinstance(value, str) and parse_image_reference(value) is not None:
        return None
    if isinstance(value, str) and parse_image_reference(value.lower()) is not None:
        return f"{value!r} is not a valid image; repositories are written in lower case"
    return (
        f"{value!r} is not a valid image; write registry/name:tag (e.g. "
        "123456789012.dkr.ecr.eu-central-1.amazonaws.com/train:v1, or pytorch/pytorch:latest)"
    )


def check_dockerfile(value: Any) -> str | None:
    """Check the path of a Dockerfile in the packed project."""
    if value == "" or (isinstance(value, str) and is_inside_project(value) and value.isprintable()):
        return None
    return f"{value!r} is not the path of a Dockerfile in the project (e.g. docker/Dockerfile)"


def check_target(value: Any) -> str | None:
    """Check the name of a build stage."""
    if value == "" or (isinstance(value, str) and _TARGET.fullmatch(value)):
        return None
    return f"{value!r} is not the name of a build stage (e.g. FROM … AS runtime: runtime)"


def check_build_args(value: Any) -> str | None:
    """Check build arguments, which are stored in the image's history."""
    if not isinstance(value, Mapping):
        return f"must be an object of names and strings, not {json_type(value)}"
    for name, argument in value.items():
        if not isinstance(name, str) or not ENV_NAME.fullmatch(name):
            return (
                f"{name!r} is not a valid name of a build argument; use letters, digits and _, and "
                "begin with a letter or _"
            )
        if not isinstance(argument, str):
            return f"{name} must be a string, not {json_type(argument)}; quote it"
        if problem := check_strings([argument]):
            return f"{name}: {problem.removeprefix('item 0 ')}"
    size = sum(len(name.encode()) + len(text.encode()) for name, text in value.items())
    if size <= MAX_BUILD_ARGS_BYTES:
        return None
    return (
        f"{size} bytes exceed the limit of {MAX_BUILD_ARGS_BYTES}; put large values into a file of "
        "the project"
    )


def check_build_secrets(value: Any) -> str | None:
    """Check build secrets: references by the ids with which a Dockerfile mounts them."""
    if not isinstance(value, Mapping):
        return f"must be an object of ids and references, not {json_type(value)}"
    for name, reference in value.items():
        if not isinstance(name, str) or not _SECRET_ID.fullmatch(name):
            return (
                f"{name!r} is not a valid id of a build secret; use letters, digits and _.- "
                "(RUN --mount=type=secret,id=ID)"
            )
        if problem := _problem_with_reference(reference):
            return f"{name}: {problem}"
    return None


def _problem_with_reference(value: Any) -> str | None:
    try:
        reference = parse_reference(value) if isinstance(value, str) else None
    except BadReferenceError as exc:
        return str(exc)
    # The value itself may be the secret, so the message does not contain it.
    return None if reference else "is not a reference; write secret:NAME or ssm:/PATH"


def check_login(value: Any) -> str | None:
    """Check the reference of a registry's login, a secret of Secrets Manager."""
    if value == "":
        return None
    if problem := _problem_with_reference(value):
        return problem
    reference = parse_reference(value)
    if reference is None or reference.store is not Store.SECRETS_MANAGER or reference.key:
        return (
            f"{value!r} is not a whole secret of Secrets Manager; write secret:NAME, whose value "
            'is {"username": "…", "password": "…"}'
        )
    return None


def check_archive(value: Any) -> str | None:
    """Check the S3 URI of an image that `docker save` wrote."""
    if value == "":
        return None
    if isinstance(value, str) and S3_URI.fullmatch(value) and ".tar" in value.rpartition("/")[2]:
        return None
    return f"{value!r} is not the S3 URI of a `docker save` archive (s3://bucket/key.tar.gz)"


@dataclass(frozen=True, kw_only=True)
class DockerOptions:
    """The container image that the program runs in; without one it runs on the machine itself."""

    image: str = text(
        "An existing image: `registry/name:tag` or `registry/name@sha256:…`. The digest that the "
        "first attempt runs is that of all later ones.",
        check=check_image,
        option=Option(
            "--docker-image", "Run in an existing image: registry/name:tag.", "REFERENCE"
        ),
        is_setting=True,
    )
    dockerfile: str = text(
        "A Dockerfile in `code`, from which the image is built in the cloud, unless an image of "
        "the same content exists.",
        check=check_dockerfile,
        option=Option(
            "--dockerfile",
            "Build the image from this file (default: Dockerfile, Dockerfile.train, "
            "docker/Dockerfile or training/Dockerfile, if the project has one).",
            "PATH",
        ),
        is_setting=True,
    )
    target: str = text(
        "The stage to build of a Dockerfile with several; default: the last.",
        check=check_target,
        option=Option("--docker-target", "Build this stage of the Dockerfile.", "STAGE"),
        is_setting=True,
    )
    build_args: Mapping[str, str] = variables(
        f"Build arguments, at most {MAX_BUILD_ARGS_BYTES} bytes. They are stored in the request "
        "and in the image's history, so they must not be secrets.",
        check=check_build_args,
        option=Option(
            "--build-arg",
            "Value for an ARG of the Dockerfile; repeatable.",
            "NAME=VALUE",
            Syntax.ASSIGNMENTS,
        ),
        is_setting=True,
    )
    build_secrets: Mapping[str, str] = variables(
        "Secrets for the build by the ids with which the Dockerfile mounts them: `secret:NAME`, "
        "`secret:NAME#KEY`, `ssm:/PATH`. They are not in the image, its history or the log.",
        check=check_build_secrets,
        option=Option(
            "--build-secret",
            "Secret for the build, by reference: ID=secret:NAME; the Dockerfile mounts it with "
            "RUN --mount=type=secret,id=ID. Repeatable.",
            "ID=REFERENCE",
            Syntax.ASSIGNMENTS,
        ),
        is_setting=True,
    )
    login: str = text(
        "The login for the registry of `image`, or for that of the base images of `dockerfile`: "
        '`secret:NAME`, whose value is `{"username": …, "password": …}`.',
        check=check_login,
        option=Option(
            "--docker-login",
            'Login for a registry: secret:NAME, whose value is {"username": …, "password": …}.',
            "REFERENCE",
        ),
        is_setting=True,
    )
    archive: str = text(
        "The S3 URI of an image that `docker save` wrote, which the instance loads without a "
        "registry.",
        check=check_archive,
    )

    @property
    def is_used(self) -> bool:
        """Whether the program runs in a container."""
        return bool(self.image or self.dockerfile or self.archive)


def docker_contradictions(docker: Mapping[str, Any], *, has_code: bool) -> Iterator[Problem]:
    """Yield problems of fields that exclude or need each other."""
    given = [name for name in SOURCES if docker.get(name)]
    if len(given) > 1:
        yield Problem(
            f"docker.{given[1]}", f"mutually exclusive with docker.{given[0]}; give one of them"
        )
    for name in BUILD_ONLY:
        if docker.get(name) and "dockerfile" not in given:
            yield Problem(
                f"docker.{name}", "only for a build; give docker.dockerfile, or remove it"
            )
    if docker.get("login") and not {"image", "dockerfile"} & set(given):
        yield Problem(
            "docker.login", "only with docker.image or docker.dockerfile; give one, or remove it"
        )
    if "dockerfile" in given and not has_code:
        yield Problem("docker.dockerfile", "is a path in a project, but code is missing; give code")
