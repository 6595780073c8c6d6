"""The credentials of an instance's role: a metadata service that fails at first is asked again."""

import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from runctl.aws import instance_identity
from runctl.aws.clients import Clients, Connection
from runctl.aws.instance_identity import InstanceRole

GIVEN = {
    "Code": "Success",
    "AccessKeyId": "AKIDROLE",
    "SecretAccessKey": "key",
    "Token": "session",
    "Expiration": (datetime.now(timezone.utc) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ"),
}


class Metadata(BaseHTTPRequestHandler):
    failures = 0

    def do_PUT(self) -> None:
        self._answer(b"token")

    def do_GET(self) -> None:
        if type(self).failures > 0:
            type(self).failures -= 1
            self.send_error(500)
            return
        is_list = self.path.endswith("/")
        self._answer(b"role" if is_list else json.dumps(GIVEN).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[type[Metadata]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE",
                 "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_DISABLED"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint)
    monkeypatch.setattr(instance_identity, "PAUSE", 0)
    yield Metadata
    server.shutdown()
    server.server_close()


def key_of(role: InstanceRole | None) -> str | None:
    connection = Connection(region="us-east-1", credentials=role)
    found = Clients(connection).get("dynamodb")._request_signer._credentials
    return None if found is None else found.access_key


def test_an_instance_asks_again_for_the_credentials_of_its_role(metadata):
    metadata.failures = 3
    assert key_of(InstanceRole()) == "AKIDROLE"


def test_another_machine_does_not_wait_for_a_role(metadata):
    metadata.failures = 3
    assert key_of(None) is None


def test_an_instance_without_a_role_does_not_wait_for_ever(metadata):
    metadata.failures = 10_000
    assert key_of(InstanceRole()) is None


def test_keys_in_the_environment_of_a_machine_are_not_those_of_its_role(metadata, monkeypatch):
    metadata.failures = 0
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOFTHEUSER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert key_of(InstanceRole()) == "AKIDROLE"
