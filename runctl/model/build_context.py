"""The context of an image build, and the tag by which an image of the same content is found.

The tag is a hash of everything that a build reads of a request: the files that `.dockerignore`
leaves, the Dockerfile, the target, the build arguments, the ids of secrets and the platform. The
value of a secret is not part of it, and neither is the content that a base image's tag has today.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from runctl.model.docker_options import DockerOptions
from runctl.model.dockerfile import Dockerfile, parse_dockerfile
from runctl.model.dockerignore import (
    DOCKERIGNORE,
    ignore_file_of,
    is_ignored,
    parse_dockerignore,
)

# Part of each hash: a new number builds everything anew.
_FORMAT = 1
MAX_DOCKERFILE_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """The members of a packed project.

    `members` has a text for each path that changes whenever the member does: its kind, its mode and
    the digest of its content, or the target of a link. `texts` are the contents of the Dockerfile
    and its ignore files, as far as they exist.
    """

    members: Mapping[str, str]
    texts: Mapping[str, str] = field(default_factory=dict)


def wanted_texts(dockerfile: str) -> tuple[str, ...]:
    """Return the paths of the files whose contents a BuildContext needs."""
    return (dockerfile, ignore_file_of(dockerfile), DOCKERIGNORE)


def dockerfile_of(context: BuildContext, docker: DockerOptions) -> Dockerfile:
    """Return the Dockerfile of a request; raises ValueError with the problem and its remedy."""
    path = docker.dockerfile
    if path not in context.members:
        raise ValueError(f"{path} does not exist in the project; correct the path")
    if path not in context.texts:
        raise ValueError(f"{path} is not a text file of at most {MAX_DOCKERFILE_BYTES:,} bytes")
    try:
        found = parse_dockerfile(context.texts[path])
    except ValueError as exc:
        raise ValueError(f"{path}: {exc}") from exc
    if found.index_of(docker.target) is None:
        known = ", ".join(found.stage_names) or "none has a name"
        raise ValueError(f"{path} has no stage {docker.target!r}; its stages: {known}")
    return found


def image_tag(context: BuildContext, docker: DockerOptions, *, platform: str) -> str:
    """Return the tag of the image that a build would make; raises ValueError for bad patterns."""
    ignore_file = ignore_file_of(docker.dockerfile)
    used = ignore_file if ignore_file in context.texts else DOCKERIGNORE
    try:
        patterns = parse_dockerignore(context.texts.get(used, ""))
    except ValueError as exc:
        raise ValueError(f"{used}: {exc}") from exc
    files = [
        [path, member]
        for path, member in sorted(context.members.items())
        if not is_ignored(path, patterns)
    ]
    return _tag(
        platform,
        [
            _FORMAT,
            files,
            context.texts.get(docker.dockerfile, ""),
            docker.target,
            sorted(docker.build_args.items()),
            sorted(docker.build_secrets),
            platform,
        ],
    )


def cache_tag(dockerfile: Dockerfile, docker: DockerOptions, *, platform: str) -> str:
    """Return the tag of the layer cache, which builds of similar projects share."""
    return _tag(platform, [docker.dockerfile, docker.target, dockerfile.base_images])


def _tag(platform: str, parts: list[object]) -> str:
    text = json.dumps(parts, ensure_ascii=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{platform.rpartition('/')[2]}-{digest}"
