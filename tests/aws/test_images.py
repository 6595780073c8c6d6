"""Images in ECR, and builds in CodeBuild: what is known of them."""

import json
from datetime import datetime, timezone

import boto3
import pytest

from runctl.aws.builds import CodeBuilds
from runctl.aws.images import EcrImages
from runctl.model.errors import RequestError
from runctl.model.image_build import BuildLines, BuildPlace
from runctl.model.image_reference import parse_image_reference

# As CodeBuild writes it: each line of a command that has several is an event.
LOG = """\
[Container] 2026/11/29 20:00:00.1 Entering phase BUILD
[Container] 2026/11/29 20:00:00.2 Running command (
set -euo pipefail
docker build .
)
Step 1/2 : FROM busybox
 [Container] is a word of this line
The command '/bin/sh -c false' returned a non-zero code: 1
[Container] 2026/11/29 20:00:09.1 Command did not exit successfully (
set -euo pipefail
docker build .
) exit status 1
[Container] 2026/11/29 20:00:09.2 Phase complete: BUILD State: FAILED
"""
OUTPUT = [
    "Step 1/2 : FROM busybox",
    " [Container] is a word of this line",
    "The command '/bin/sh -c false' returned a non-zero code: 1",
]


def test_the_output_of_a_build_is_told_from_what_codebuild_writes():
    lines = BuildLines()
    assert [line for line in LOG.splitlines() if lines.is_output(line)] == OUTPUT


class _EndedBuilds:
    """moto's builds have no log, so the one call that finds it is answered here."""

    def batch_get_builds(self, ids):
        where = {"groupName": "/runctl/trainer", "streamName": "run-1/image/7"}
        known = {"a:7": [{"id": "a:7", "buildStatus": "FAILED", "logs": where}]}
        missing = {"groupName": "/runctl/trainer", "streamName": "none"}
        known["a:8"] = [{"id": "a:8", "buildStatus": "FAULT", "logs": missing}]
        known["a:9"] = [{"id": "a:9", "buildStatus": "STOPPED"}]
        return {"builds": known.get(ids[0], [])}


def test_a_build_is_read_with_its_output():
    logs = boto3.client("logs")
    logs.create_log_group(logGroupName="/runctl/trainer")
    logs.create_log_stream(logGroupName="/runctl/trainer", logStreamName="run-1/image/7")
    at = int(datetime.now(timezone.utc).timestamp() * 1000)
    events = [{"timestamp": at, "message": f"{line}\n"} for line in LOG.splitlines()]
    logs.put_log_events(
        logGroupName="/runctl/trainer", logStreamName="run-1/image/7", logEvents=events
    )
    builds = CodeBuilds(_EndedBuilds(), logs)
    found = builds.find("a:7")
    assert (found.status, list(found.lines)) == ("FAILED", OUTPUT)
    assert builds.find("a:8").lines == builds.find("a:9").lines == ()
    assert builds.find("a:10") is None


@pytest.fixture
def images():
    client = boto3.client("ecr")
    uri = client.create_repository(repositoryName="runctl-images")["repository"]["repositoryUri"]
    return EcrImages(client, place=BuildPlace(repository=uri, projects={})), client


def manifest() -> str:
    layers = [{"size": 5, "digest": "sha256:1"}, {"size": 7, "digest": "sha256:2"}]
    kind = "application/vnd.oci.image.manifest.v1+json"
    return json.dumps({"schemaVersion": 2, "mediaType": kind, "config": {}, "layers": layers})


def test_an_image_of_a_build_is_found_by_its_tag(images):
    store, client = images
    assert store.find_built("amd64-1") is None
    client.put_image(repositoryName="runctl-images", imageManifest=manifest(), imageTag="amd64-1")
    found = store.find_built("amd64-1")
    assert found.image.reference == f"{store.place.repository}@{found.image.digest}"
    assert (found.image.login, found.image.size_bytes) == ("ecr", 12)
    # moto stores no layers: what only the configuration says is not known.
    assert (found.platforms, found.has_command) == (frozenset(), None)


def test_an_image_that_is_missing_is_named(images):
    store, _ = images
    reference = parse_image_reference(f"{store.place.repository}:v1")
    assert store.is_here(reference)
    with pytest.raises(RequestError, match="runctl-images:v1 does not exist; push it first"):
        store.find(reference)
    other = parse_image_reference(store.place.repository.replace("runctl-images", "none"))
    with pytest.raises(RequestError, match="none does not exist"):
        store.find(other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("123456789012.dkr.ecr.us-east-1.amazonaws.com/train", True),
        ("999999999999.dkr.ecr.us-east-1.amazonaws.com/train", True),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com/train", False),
        ("python:3.12", False),
        ("ghcr.io/a/b", False),
    ],
)
def test_only_ecr_of_this_region_is_asked(images, text, expected):
    store, _ = images
    assert store.is_here(parse_image_reference(text)) is expected


def test_an_index_has_the_platforms_of_its_images(images):
    store, client = images
    index = (
        '{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": '
        '[{"platform": {"os": "linux", "architecture": "arm64"}}, '
        '{"platform": {"os": "linux", "architecture": "amd64"}}, '
        '{"platform": {"os": "unknown", "architecture": "unknown"}}]}'
    )
    client.put_image(
        repositoryName="runctl-images",
        imageManifest=index,
        imageManifestMediaType="application/vnd.oci.image.index.v1+json",
        imageTag="both",
    )
    found = store.find_built("both")
    assert found.platforms == {"linux/amd64", "linux/arm64"}
    assert found.image.platform == ""


def test_stored_images_are_listed_and_deleted(images):
    store, client = images
    client.put_image(repositoryName="runctl-images", imageManifest=manifest(), imageTag="a")
    (kept,) = store.stored()
    assert (datetime.now(timezone.utc) - kept.used_at).total_seconds() < 3600
    assert store.delete([kept.digest]) == []
    assert store.stored() == []
    assert store.delete([kept.digest]) == []


def test_the_login_of_the_registry_is_that_of_its_token(images):
    store, _ = images
    user, password = store.login()
    assert user == "AWS"
    assert password
