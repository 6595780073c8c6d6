"""The build of a run's image by the Docker of this machine, and where the image goes."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from runctl.aws.code_archive import context_of
from runctl.cli.project.local_docker import LocalDocker
from runctl.model.build_context import dockerfile_of, image_tag, wanted_texts
from runctl.model.docker_options import DockerOptions
from runctl.model.errors import InvalidRequestError, Problem, RequestError
from runctl.model.identity import saved_image_key
from runctl.model.request import RunRequest
from runctl.model.secret_references import references_in
from runctl.policy.platforms import choose_platform
from runctl.report.wording import format_size

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.cli.commands.aws.docker_choice import DockerChoice
    from runctl.cli.commands.aws.job import Job
    from runctl.cli.display.output import Output
    from runctl.cli.project.package import Package

_LOCAL_NAME = "runctl"


def with_local_image(
    job: Job, package: Package, cloud: Cloud, choice: DockerChoice, output: Output
) -> Job:
    """Build the job's image here and return the job with the image in place of the Dockerfile."""
    request = RunRequest.from_stored(job.request)
    docker = request.docker
    platform = choose_platform(request.resources.instance_types)
    tag = tag_of(package.path, docker, platform=platform)
    if choice.no_push:
        uri = _send(build_here(package.path, docker, tag, platform, cloud), cloud, output)
        return job.with_docker({"archive": uri})
    repository = choice.push_to or repository_of(cloud)
    if not choice.push_to and (found := cloud.images.find_built(tag)) is not None:
        output.note("an image of this project exists: nothing is built")
        return job.with_docker({"image": found.image.reference})
    name = build_here(package.path, docker, tag, platform, cloud, repository=repository)
    reference = push(name, cloud, is_own=not choice.push_to)
    output.note(f"pushed {reference}")
    login = {"login": docker.login} if choice.push_to and docker.login else {}
    return job.with_docker({"image": reference, **login})


def tag_of(package: Path, docker: DockerOptions, *, platform: str) -> str:
    """Return the tag that PrepareRun would look for."""
    try:
        with tarfile.open(package) as archive:
            context = context_of(archive, wanted_texts(docker.dockerfile))
        dockerfile_of(context, docker)
        return image_tag(context, docker, platform=platform)
    except ValueError as exc:
        raise InvalidRequestError((Problem("--dockerfile", str(exc)),)) from exc


def build_here(
    package: Path,
    docker: DockerOptions,
    tag: str,
    platform: str,
    cloud: Cloud | None,
    *,
    repository: str = _LOCAL_NAME,
) -> str:
    """Build the image and return its name on this machine."""
    engine = LocalDocker()
    engine.check()
    secrets = {
        name: cloud.secrets.fetch(reference)
        for name, reference in references_in(docker.build_secrets).items()
        if cloud is not None
    }
    name = f"{repository}:{tag}"
    engine.build(package, docker, platform=platform, name=name, secrets=secrets)
    return name


def repository_of(cloud: Cloud) -> str:
    """Return the deployment's repository for images."""
    if not cloud.deployment.image_repository:
        raise RequestError(
            "this deployment has no repository for images; deploy this version of runctl, or give "
            "--push-to or --no-push"
        )
    return cloud.deployment.image_repository


def push(name: str, cloud: Cloud | None, *, is_own: bool) -> str:
    """Push an image and return `repository@digest`; the deployment's own ECR is logged in to."""
    engine = LocalDocker()
    if is_own and cloud is not None:
        user, password = cloud.images.login()
        engine.login(name.partition("/")[0], user=user, password=password)
    return engine.push(name)


def _send(name: str, cloud: Cloud, output: Output) -> str:
    """Upload an image as an archive, unless it is there, and return its URI."""
    engine = LocalDocker()
    key = saved_image_key(engine.image_id(name))
    if cloud.objects.exists(key):
        output.note("the image is already uploaded")
        return cloud.objects.uri(key)
    with tempfile.TemporaryDirectory(prefix="runctl-") as folder:
        path = Path(folder, "image.tar.gz")
        engine.save(name, path)
        size = path.stat().st_size
        with output.progress("uploading the image", total=size) as advance:
            cloud.objects.put_if_absent(key, path, progress=advance)
    output.note(f"uploaded the image, {format_size(size)}")
    return cloud.objects.uri(key)
