"""Packages of an index that requires a login, whose address is a secret."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runctl.model.index_variables import index_variables, with_indexes
from tests.agent.conftest import make_client
from tests.agent.machine import Cloud, wait_until
from tests.agent.packages import make_wheel

PASSWORD = "s3cret-of-the-index"
PROGRAM = "import mypkg, os\nprint('version', mypkg.VERSION, flush=True)\n"


class Guarded(SimpleHTTPRequestHandler):
    """A package index for those who know its password, and an empty one for everybody."""

    def do_GET(self) -> None:
        expected = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
        is_open = self.path.startswith("/open/")
        if not is_open and self.headers.get("Authorization") != f"Basic {expected}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """Serve an index with one package; yield the server's address."""
    make_wheel(tmp_path / "simple" / "mypkg", "mypkg", "1.0")
    handler = partial(Guarded, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"])
def test_an_index_behind_a_login_is_used_and_nothing_that_leaves_the_machine_names_the_password(
    endpoint: str, cloud: Cloud, launch, index: str, variable: str
) -> None:
    name = f"{cloud.name}/index"
    address = f"http://me:{PASSWORD}@{index}/simple/"
    with contextlib.closing(make_client("secretsmanager", endpoint)) as secrets:
        secrets.create_secret(Name=name, SecretString=address)
    options = "" if variable == "PIP_INDEX_URL" else f"--index-url http://{index}/open/\n"
    cloud.create_run(
        PROGRAM,
        files={"requirements.txt": f"{options}mypkg\n"},
        env={variable: f"secret:{name}"},
    )
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    outcome = cloud.outcome()
    assert outcome["kind"] == "completed", machine.agent_log()
    assert machine.wait() == 0
    wait_until(lambda: any("version 1.0" in line for line in cloud.log("run-1/0001-000")))
    wait_until(lambda: cloud.log("run-1/0001-000-agent"))
    keys = cloud.keys("")
    stored = [cloud.read(key) for key in keys]
    events = cloud.clients["logs"].filter_log_events(logGroupName=cloud.name)["events"]
    assert PASSWORD not in str((stored, events, outcome))


def test_an_environment_belongs_to_its_indexes_and_not_to_their_passwords() -> None:
    env = {"PIP_INDEX_URL": "secret:team/index", "MODE": "fast"}
    named = index_variables(env)
    assert named == {"PIP_INDEX_URL": "secret:team/index"}
    assert with_indexes(b"x", {}) == b"x"
    assert with_indexes(b"x", named) == with_indexes(b"x", dict(named)) != b"x"
    assert with_indexes(b"x", named) != with_indexes(b"x", {"PIP_INDEX_URL": "secret:other"})
