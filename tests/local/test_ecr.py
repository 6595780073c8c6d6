"""ECR on the local cloud: images that a real engine pushes to a real registry, by ECR's rules."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from runctl.local.core.protocol import ApiError
from runctl.local.ecr.registry import Registry
from runctl.local.ecr.tokens import Tokens
from tests.docker_engine import Engine, needs_engine, needs_registry, serving_engine
from tests.local.clouds import Cloud, unique

pytestmark = [needs_registry, pytest.mark.slow]
PUSH = (
    "BatchCheckLayerAvailability", "InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload",
    "PutImage", "BatchGetImage",
)  # fmt: skip
PULL = ("BatchGetImage", "GetDownloadUrlForLayer")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with serving_engine() as engine:
        engine.import_base("busybox", "busybox")
        yield engine


def login_of(ecr: Any) -> tuple[str, str]:
    data = ecr.get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    return user, password


def make_repository(ecr: Any, **options: Any) -> dict[str, str]:
    found: dict[str, str] = ecr.create_repository(repositoryName=unique("team/app"), **options)[
        "repository"
    ]
    return found


def ask(
    uri: str, path: str, login: tuple[str, str] | None, *, method: str = "GET", body: bytes = b""
) -> tuple[int, dict[str, Any]]:
    """Send a request to a registry, and return the status and the document of its answer."""
    registry, _, repository = uri.partition("/")
    request = urllib.request.Request(
        f"http://{registry}/v2/{repository}/{path}", method=method, data=body or None
    )
    if login is not None:
        encoded = base64.b64encode(":".join(login).encode()).decode()
        request.add_header("Authorization", f"Basic {encoded}")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read() or b"{}")
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.loads(exc.read() or b"{}")


def code_of(raised: pytest.ExceptionInfo[ClientError]) -> str:
    return str(raised.value.response["Error"]["Code"])


@needs_engine
def test_the_api_reports_what_was_pushed(cloud: Cloud, engine: Engine) -> None:
    ecr = cloud.client("ecr")
    scanning = {"scanOnPush": True}
    repository = make_repository(ecr, imageScanningConfiguration=scanning)
    name, uri = repository["repositoryName"], repository["repositoryUri"]
    digest = engine.push("busybox", f"{uri}:first", login=login_of(ecr))
    engine.push("busybox", f"{uri}:second")

    (image,) = ecr.describe_images(repositoryName=name)["imageDetails"]
    assert (image["imageDigest"], image["imageTags"]) == (digest, ["first", "second"])
    assert image["imageScanStatus"]["status"] in {"IN_PROGRESS", "COMPLETE"}
    (got,) = ecr.batch_get_image(repositoryName=name, imageIds=[{"imageTag": "first"}])["images"]
    manifest = json.loads(got["imageManifest"])
    parts = [manifest["config"], *manifest["layers"]]
    assert image["imageSizeInBytes"] == sum(part["size"] for part in parts)
    assert f"sha256:{hashlib.sha256(got['imageManifest'].encode()).hexdigest()}" == digest
    last, unknown = parts[-1], f"sha256:{'0' * 64}"
    checked = ecr.batch_check_layer_availability(
        repositoryName=name, layerDigests=[last["digest"], unknown]
    )["layers"]
    assert [layer["layerAvailability"] for layer in checked] == ["AVAILABLE", "UNAVAILABLE"]
    assert checked[0]["layerSize"] == last["size"]
    config = manifest["config"]["digest"]
    url = ecr.get_download_url_for_layer(repositoryName=name, layerDigest=config)["downloadUrl"]
    with urllib.request.urlopen(url, timeout=30) as response:
        assert json.load(response)["architecture"] in {"amd64", "arm64"}


@needs_engine
def test_an_image_is_pulled_until_its_last_tag_is_deleted(cloud: Cloud, engine: Engine) -> None:
    ecr = cloud.client("ecr")
    repository = make_repository(ecr)
    name, uri = repository["repositoryName"], repository["repositoryUri"]
    digest = engine.push("busybox", f"{uri}:a", login=login_of(ecr))
    engine.push("busybox", f"{uri}:b")
    engine.docker("rmi", f"{uri}:a", f"{uri}:b")

    ecr.batch_delete_image(repositoryName=name, imageIds=[{"imageTag": "a"}])
    assert "not found" in engine.attempt("pull", f"{uri}:a").stderr
    engine.docker("pull", f"{uri}@{digest}")
    assert engine.docker("run", "--rm", f"{uri}@{digest}", "echo", "hello") == "hello\n"
    gone = ecr.batch_delete_image(repositoryName=name, imageIds=[{"imageDigest": digest}])
    assert gone["imageIds"] == [{"imageDigest": digest, "imageTag": "b"}]
    assert ecr.list_images(repositoryName=name)["imageIds"] == []
    assert ask(uri, f"manifests/{digest}", login_of(ecr))[0] == 404


@needs_engine
def test_an_immutable_tag_is_pushed_once_even_if_the_image_is_the_same(
    cloud: Cloud, engine: Engine
) -> None:
    ecr = cloud.client("ecr")
    repository = make_repository(ecr, imageTagMutability="IMMUTABLE")
    uri = repository["repositoryUri"]
    engine.push("busybox", f"{uri}:1", login=login_of(ecr))
    refused = engine.attempt("push", f"{uri}:1")
    assert refused.returncode == 1
    assert "cannot be overwritten because the repository is immutable" in refused.stderr
    (stored,) = ecr.batch_get_image(
        repositoryName=repository["repositoryName"], imageIds=[{"imageTag": "1"}]
    )["images"]
    again = {"imageManifest": stored["imageManifest"], "repositoryName": stored["repositoryName"]}
    ecr.put_image(**again, imageTag="2")
    with pytest.raises(ClientError) as raised:
        ecr.put_image(**again, imageTag="2")
    assert code_of(raised) == "ImageAlreadyExistsException"
    with pytest.raises(ClientError) as raised:
        ecr.put_image(**again | {"imageManifest": again["imageManifest"] + " "}, imageTag="2")
    assert code_of(raised) == "ImageTagAlreadyExistsException"


@needs_engine
def test_a_role_does_with_a_token_what_its_policy_allows(
    strict_cloud: Cloud, engine: Engine
) -> None:
    repository = make_repository(strict_cloud.client("ecr"))
    uri, arn = repository["repositoryUri"], repository["repositoryArn"]
    token = {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"}

    def login_of_role(*actions: str) -> tuple[str, str]:
        names = [f"ecr:{action}" for action in actions]
        rights = {"Effect": "Allow", "Action": names, "Resource": arn}
        role = strict_cloud.role(token, rights)
        return login_of(strict_cloud.client("ecr", **strict_cloud.assume(role)))

    reader = login_of_role(*PULL)
    engine.docker("login", "-u", reader[0], "--password-stdin", uri, stdin=reader[1])
    engine.docker("tag", "busybox", f"{uri}:1")
    refused = engine.attempt("push", f"{uri}:1")
    assert "not authorized to perform: ecr:" in refused.stderr
    engine.push("busybox", f"{uri}:1", login=login_of_role(*PUSH))
    engine.docker("rmi", f"{uri}:1")
    assert "ecr:GetDownloadUrlForLayer" in ask(uri, "blobs/sha256:0", login_of_role(*PUSH))[1][
        "errors"][0]["message"]  # fmt: skip
    engine.docker("login", "-u", reader[0], "--password-stdin", uri, stdin=reader[1])
    engine.docker("pull", f"{uri}:1")


def test_only_passwords_of_ecr_open_the_registry(cloud: Cloud) -> None:
    ecr = cloud.client("ecr")
    uri = make_repository(ecr)["repositoryUri"]
    login = login_of(ecr)
    assert ask(uri, "tags/list", None)[0] == 401
    for wrong in (("AWS", "guess"), ("me", login[1])):
        assert ask(uri, "tags/list", wrong)[0] == 400
    assert ask(uri, "tags/list", login)[1]["tags"] == []
    status, answer = ask(uri + "-missing", "tags/list", login)
    assert (status, answer["errors"][0]["code"]) == (404, "NAME_UNKNOWN")
    assert ask(uri, "manifests/none", login)[0] == 404
    assert ask(uri, "manifests/none", login, method="DELETE")[0] == 405


def test_passwords_and_addresses_of_layers_expire() -> None:
    now = 1_000_000.0
    tokens = Tokens(clock=lambda: now)
    password, grant = tokens.issue(access_key="AKIA", account="000000000000", region="us-east-1")
    header = f"Basic {base64.b64encode(f'AWS:{password}'.encode()).decode()}"
    assert grant.expires_at == now + 12 * 3600
    address = tokens.link("app", "sha256:0")
    assert tokens.linked(address).repository == "app"
    now += 12 * 3600 - 1
    assert tokens.grant(header) == grant
    with pytest.raises(ApiError, match="Request has expired"):
        tokens.linked(address)
    now += 1
    with pytest.raises(ApiError, match="has expired") as raised:
        tokens.grant(header)
    assert raised.value.status == 403


def test_without_the_registry_the_error_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ApiError, match="apt-get install docker-registry"):
        Registry(tmp_path / "registry").connect()


def test_a_manifest_whose_layers_were_not_pushed_is_refused(cloud: Cloud) -> None:
    ecr = cloud.client("ecr")
    repository = make_repository(ecr)
    part = {"mediaType": "application/octet-stream", "size": 3, "digest": f"sha256:{'1' * 64}"}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": part,
        "layers": [part],
    }
    with pytest.raises(ClientError) as raised:
        ecr.put_image(
            repositoryName=repository["repositoryName"],
            imageManifest=json.dumps(manifest),
            imageTag="1",
        )
    assert code_of(raised) == "LayersNotFoundException"
    with pytest.raises(ClientError) as raised:
        ecr.describe_images(
            repositoryName=repository["repositoryName"], imageIds=[{"imageTag": "1"}]
        )
    assert code_of(raised) == "ImageNotFoundException"


def test_parts_of_a_push_through_the_api_are_refused(cloud: Cloud) -> None:
    ecr = cloud.client("ecr")
    name = make_repository(ecr)["repositoryName"]
    with pytest.raises(ClientError) as raised:
        ecr.initiate_layer_upload(repositoryName=name)
    assert code_of(raised) == "UnsupportedOperation"
