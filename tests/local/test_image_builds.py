"""Privileged builds use a real Docker engine, and push to ECR with the service role's rights."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.docker_engine import needs_engine, needs_registry
from tests.local.builds import LOGS, output, project, run, service_role, spec
from tests.local.clouds import Cloud, unique

pytestmark = [needs_engine, needs_registry, pytest.mark.slow]

LOGIN = 'aws ecr get-login-password | docker login -u AWS --password-stdin "${REPOSITORY%%/*}" 2>&1'
DOCKERFILE = 'FROM scratch\\nCOPY busybox /bin/sh\\nRUN echo built >/made\\nCMD ["/bin/sh"]\\n'
BUILD = f"printf '{DOCKERFILE}' >Dockerfile && docker build -q -t \"$REPOSITORY:1\" ."
PRIVILEGED = {"privilegedMode": True}


def repository(cloud: Cloud) -> tuple[str, str]:
    """Create a repository; return its name and address."""
    made = cloud.client("ecr").create_repository(repositoryName=unique("images"))["repository"]
    return made["repositoryName"], made["repositoryUri"]


def variables(address: str) -> list[dict[str, Any]]:
    return [{"name": "REPOSITORY", "value": address}]


def copy_of_busybox() -> str:
    path = shutil.which("busybox", path="/bin:/usr/bin")
    return f"cp {path} busybox"


def pushes(cloud: Cloud, *actions: str, resource: str) -> str:
    """Create a service role that may do this to a repository."""
    arn = f"arn:aws:ecr:us-east-1:000000000000:repository/{resource}"
    return service_role(
        cloud,
        LOGS,
        {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
        {"Effect": "Allow", "Action": list(actions), "Resource": arn},
    )


PUSH = (
    "ecr:BatchCheckLayerAvailability",
    "ecr:InitiateLayerUpload",
    "ecr:UploadLayerPart",
    "ecr:CompleteLayerUpload",
    "ecr:PutImage",
)


def test_a_privileged_build_pushes_an_image(strict_cloud: Cloud) -> None:
    cloud = strict_cloud
    name, address = repository(cloud)
    role = pushes(cloud, *PUSH, resource=name)
    buildspec = spec(copy_of_busybox(), LOGIN, BUILD, 'docker push -q "$REPOSITORY:1"')
    names = project(cloud, buildspec, environment=PRIVILEGED, serviceRole=role)
    build = run(cloud, names, environmentVariablesOverride=variables(address))
    assert build["buildStatus"] == "SUCCEEDED", output(cloud, build)
    images = cloud.client("ecr").describe_images(repositoryName=name)["imageDetails"]
    assert [image["imageTags"] for image in images] == [["1"]]
    # The login is gone with the home folder of the build, and the image is in the engine.
    again = run(
        cloud,
        names,
        buildspecOverride=spec(
            'docker run --rm --network host "$REPOSITORY:1" /bin/sh -c "read x </made; echo \\$x"',
            'docker push -q "$REPOSITORY:1" || echo refused',
        ),
        environmentVariablesOverride=variables(address),
    )
    lines = output(cloud, again)
    assert (lines[0], lines[-1]) == ("built", "refused")


def test_a_role_that_may_not_push_fails_the_build(strict_cloud: Cloud) -> None:
    cloud = strict_cloud
    name, address = repository(cloud)
    role = pushes(cloud, *PUSH[:-1], resource=name)
    buildspec = spec(copy_of_busybox(), LOGIN, BUILD, 'docker push "$REPOSITORY:1" 2>&1')
    names = project(cloud, buildspec, environment=PRIVILEGED, serviceRole=role)
    build = run(cloud, names, environmentVariablesOverride=variables(address))
    assert build["buildStatus"] == "FAILED"
    assert "ecr:PutImage" in "\n".join(output(cloud, build))
    assert cloud.client("ecr").describe_images(repositoryName=name)["imageDetails"] == []


def test_a_build_that_is_not_privileged_has_no_docker(cloud: Cloud) -> None:
    name = project(cloud, spec("docker version 2>&1"), environment={"privilegedMode": False})
    build = run(cloud, name)
    assert build["buildStatus"] == "FAILED"
    assert "Cannot connect to the Docker daemon" in "\n".join(output(cloud, build))
    privileged = run(cloud, name, privilegedModeOverride=True)
    assert privileged["buildStatus"] == "SUCCEEDED"
