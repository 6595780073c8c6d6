"""Images and their references, read as the engine reads them."""

import pytest

from runctl.model.image import ECR_LOGIN, Image
from runctl.model.image_reference import parse_image_reference, pinned
from runctl.model.request_parsing import parse_request

DIGEST = "sha256:" + "a" * 64
ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


@pytest.mark.parametrize(
    ("text", "registry", "name", "tag", "digest"),
    [
        ("python", "docker.io", "python", "", ""),
        ("pytorch/pytorch:2.1.0-cuda11.8", "docker.io", "pytorch/pytorch", "2.1.0-cuda11.8", ""),
        ("my-registry/train:latest", "docker.io", "my-registry/train", "latest", ""),
        ("my-registry:5000/train", "my-registry:5000", "train", "", ""),
        ("localhost/train", "localhost", "train", "", ""),
        ("127.0.0.1:5000/a/b__c:v1", "127.0.0.1:5000", "a/b__c", "v1", ""),
        (f"nvcr.io/nvidia/pytorch@{DIGEST}", "nvcr.io", "nvidia/pytorch", "", DIGEST),
        (f"{ECR}/team/train:v1@{DIGEST}", ECR, "team/train", "v1", DIGEST),
    ],
)
def test_a_reference_is_read_and_written(text, registry, name, tag, digest):
    read = parse_image_reference(text)
    assert (read.registry, read.name, read.tag, read.digest) == (registry, name, tag, digest)
    assert str(read) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "/train", "train:", "train@sha256:12", "a//b", "a b", "https://a/b", "-v", "Train",
        "train:-x", "train\n", "a/" * 130 + "b",
    ],
)  # fmt: skip
def test_what_the_engine_would_not_accept_is_no_reference(text):
    assert parse_image_reference(text) is None


def test_the_account_and_region_of_an_ecr_are_read_from_its_host():
    read = parse_image_reference(f"{ECR}/train")
    assert (read.ecr_account, read.ecr_region) == ("123456789012", "eu-central-1")
    other = parse_image_reference("ghcr.io/team/train")
    assert (other.ecr_account, other.ecr_region) == ("", "")


def test_a_digest_replaces_the_tag():
    assert pinned("registry:5000/train:v1", DIGEST) == f"registry:5000/train@{DIGEST}"
    with pytest.raises(ValueError, match="not a valid image reference"):
        pinned("registry:5000/train:v1", "sha256:1")


def test_an_image_is_read_back_as_it_was_stored():
    image = Image(reference=f"a@{DIGEST}", digest=DIGEST, login=ECR_LOGIN, command=("train",))
    assert Image.from_stored(image.as_document()) == image


@pytest.mark.parametrize("document", [{}, {"reference": None}, {"digest": DIGEST}])
def test_a_stored_image_that_names_nothing_is_none(document):
    assert Image.from_stored(document) is None


def test_a_stored_image_of_another_version_is_read_as_far_as_it_is_known():
    image = Image.from_stored({"reference": "a", "size_bytes": "7", "command": "x", "new": 1})
    assert image == Image(reference="a")


def test_build_options_are_read_from_a_request():
    docker = {
        "dockerfile": "docker/Dockerfile",
        "target": "runtime",
        "build_args": {"CUDA": "12.4"},
        "build_secrets": {"index": "secret:pypi#token"},
        "login": "secret:hub",
    }
    request = parse_request({"script": "t.py", "code": "s3://bucket/c.tar.gz", "docker": docker})
    assert request.docker.build_args == {"CUDA": "12.4"}
    assert request.docker.build_secrets == {"index": "secret:pypi#token"}
    assert request.as_document()["docker"] == {**docker, "image": "", "archive": ""}
