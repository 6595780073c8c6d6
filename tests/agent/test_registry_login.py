"""The logins of registries: the client's configuration, and its helper for ECR."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from runctl.agent.prepare.registry_login import answer_helper, write_login
from runctl.aws.registry_tokens import RegistryTokens
from runctl.model.errors import RequestError
from runctl.model.image import Image
from tests.agent.conftest import make_client
from tests.agent.machine import Cloud

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


class Ecr:
    """A client whose tokens are numbered and expire after `hours`."""

    def __init__(self, hours: float = 12) -> None:
        self.hours = hours
        self.regions: list[str] = []

    def client(self, _service: str, region: str) -> Ecr:
        self.regions.append(region)
        return self

    def get_authorization_token(self) -> dict[str, object]:
        import base64

        token = base64.b64encode(f"AWS:token:{len(self.regions)}".encode()).decode()
        expires_at = datetime.now(timezone.utc) + timedelta(hours=self.hours)
        return {"authorizationData": [{"authorizationToken": token, "expiresAt": expires_at}]}


def ask(folder: Path, ecr: Ecr, action: str = "get", host: str = ECR) -> str:
    return answer_helper(folder, action, host, RegistryTokens(ecr.client), region="us-east-1")


def test_token_is_kept_until_shortly_before_it_expires(tmp_path: Path) -> None:
    ecr = Ecr()
    answer = json.loads(ask(tmp_path, ecr))
    assert answer == {"ServerURL": ECR, "Username": "AWS", "Secret": "token:1"}
    assert json.loads(ask(tmp_path, ecr)) == answer
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600
    soon = Ecr(hours=0.9)
    assert json.loads(ask(tmp_path, soon)) == answer
    (tmp_path / "tokens.json").unlink()
    assert [json.loads(ask(tmp_path, soon))["Secret"] for _ in range(2)] == ["token:1", "token:2"]


def test_token_is_of_the_region_of_its_registry(tmp_path: Path) -> None:
    ecr = Ecr()
    ask(tmp_path, ecr)
    ask(tmp_path, ecr, host="127.0.0.1:5000")
    assert ecr.regions == ["eu-central-1", "us-east-1"]


def test_refused_token_is_forgotten_and_other_requests_change_nothing(tmp_path: Path) -> None:
    ecr = Ecr()
    ask(tmp_path, ecr)
    assert [ask(tmp_path, ecr, action) for action in ("store", "list", "erase")] == ["", "", ""]
    assert json.loads(ask(tmp_path, ecr))["Secret"] == "token:2"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"eu-central-1": {"user": 1}}'])
def test_damaged_file_of_tokens_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokens.json").write_text(content)
    assert json.loads(ask(tmp_path, Ecr()))["Secret"] == "token:1"


def test_helper_program_gets_a_token_of_the_service(
    tmp_path: Path, cloud: Cloud, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for name, value in cloud.access_of("i-1").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RUNCTL_ROOT", str(tmp_path / "root"))
    (tmp_path / "root/run/runctl/docker").mkdir(parents=True)
    image = Image(reference=f"{ECR}/train:1", login="ecr")
    write_login(tmp_path / "config", tmp_path / "helpers", image, "")
    assert json.loads((tmp_path / "config/config.json").read_text()) == {
        "credHelpers": {ECR: "runctl"}
    }
    done = subprocess.run(
        [tmp_path / "helpers/docker-credential-runctl", "get"],
        input=ECR,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    client = make_client("ecr", endpoint)
    assert client.get_authorization_token()["authorizationData"]
    client.close()
    assert json.loads(done.stdout) == {
        "ServerURL": ECR,
        "Username": "AWS",
        "Secret": "123456789012-auth-token",
    }


@pytest.mark.parametrize(
    ("reference", "value", "host"),
    [
        ("user/train:1", {}, "https://index.docker.io/v1/"),
        ("ghcr.io/user/train:1", {}, "ghcr.io"),
        ("127.0.0.1:5000/train:1", {}, "127.0.0.1:5000"),
        ("mirror.example.com/train", {"registry": "login.example.com"}, "login.example.com"),
    ],
)
def test_login_of_a_secret_is_for_the_registry_of_the_image_and_for_nobody_to_read(
    tmp_path: Path, reference: str, value: dict[str, str], host: str
) -> None:
    secret = json.dumps({"username": "me", "password": "pass:word", **value})
    config = tmp_path / "config"
    write_login(config, tmp_path / "helpers", Image(reference=reference, login="secret:x"), secret)
    document = json.loads((config / "config.json").read_text())
    assert document == {"auths": {host: {"auth": "bWU6cGFzczp3b3Jk"}}}
    assert (config / "config.json").stat().st_mode & 0o777 == 0o600
    assert config.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("value", ["s3cr3t", '"s3cr3t"', '{"username": "s3cr3t"}', "[]", "null"])
def test_secret_that_is_no_login_is_refused_without_its_value(tmp_path: Path, value: str) -> None:
    image = Image(reference="user/train:1", login="secret:hub")
    with pytest.raises(RequestError, match="the value of secret:hub is not") as refused:
        write_login(tmp_path / "config", tmp_path / "helpers", image, value)
    assert "s3cr3t" not in str(refused.value)


def test_login_of_an_earlier_run_is_not_kept(tmp_path: Path) -> None:
    config, helpers = tmp_path / "config", tmp_path / "helpers"
    login = json.dumps({"username": "a", "password": "b"})
    write_login(config, helpers, Image(reference="user/a", login="secret:x"), login)
    write_login(config, helpers, Image(reference="user/b"), "")
    assert json.loads((config / "config.json").read_text()) == {}
