"""The tunnel of `runctl aws connect`, with programs that behave like AWS's plugin."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from runctl.aws.sessions import PortSession
from runctl.cli.proxy.tunnel import VARIABLE, Plugin, Tunnel, find_plugin
from runctl.local import session_plugin
from runctl.model.errors import RequestError, TransientError

REQUEST = {
    "Target": "i-1",
    "DocumentName": "AWS-StartPortForwardingSession",
    "Parameters": {"portNumber": ["8080"], "localPortNumber": ["9000"]},
}
RESPONSE = {"SessionId": "me-1", "TokenValue": "a token", "StreamUrl": "wss://stream"}
# What it does at a signal that it does not handle is what its platform does: it ends at once.
HANDLES_INTERRUPTS = """\
import json, os, signal, sys, time
folder = sys.argv[1]
response = os.environ.get("AWS_SSM_START_SESSION_RESPONSE")
open(f"{folder}/argv", "w").write(json.dumps([sys.argv[2:], response]))
socket = f"{folder}/mux.sock"
open(socket, "w").close()
def interrupted(*_):
    os.remove(socket)
    os._exit(0)
signal.signal(signal.SIGINT, interrupted)
print("\\nStarting session with SessionId: me-1")
print("Port 9000 opened for sessionId me-1.", flush=True)
time.sleep(600)
"""


class Sessions:
    """The sessions of one service, as SSM answers."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def start(self, instance_id: str, *, port: int, local_port: int) -> PortSession:
        assert (instance_id, port) == ("i-1", 8080)
        return PortSession(
            session_id="me-1",
            response=json.dumps(RESPONSE),
            request=json.dumps(REQUEST),
            region="us-east-1",
            endpoint_url="https://ssm.us-east-1.amazonaws.com",
        )

    def end(self, session_id: str) -> None:
        self.ended.append(session_id)


def opened(program: str, folder: Path, *, reads_variable: bool) -> tuple[list[str], str | None]:
    """Open and close a tunnel; return what its plugin was started with."""
    sessions = Sessions()
    words = (sys.executable, "-c", program, str(folder))
    plugin = Plugin(words, reads_variable=reads_variable, profile="dev")

    async def run() -> None:
        tunnel = Tunnel(sessions, plugin, instance_id="i-1", remote_port=8080)
        await tunnel.open()
        assert tunnel.is_open
        await tunnel.close()
        assert not tunnel.is_open

    asyncio.run(run())
    assert sessions.ended == ["me-1"]
    argv, variable = json.loads((folder / "argv").read_text())
    return argv, variable


@pytest.mark.parametrize("reads_variable", [False, True])
def test_the_plugin_is_called_as_the_aws_cli_calls_it_and_ended_as_it_expects(
    tmp_path: Path, reads_variable: bool
) -> None:
    argv, variable = opened(HANDLES_INTERRUPTS, tmp_path, reads_variable=reads_variable)
    rest = ["us-east-1", "StartSession", "dev", json.dumps(REQUEST)]
    assert argv[1:] == [*rest, "https://ssm.us-east-1.amazonaws.com"]
    response = json.loads((variable if reads_variable else argv[0]) or "")
    assert response == RESPONSE
    if reads_variable:
        assert argv[0] == VARIABLE == session_plugin.VARIABLE
    assert not (tmp_path / "mux.sock").exists()


def test_a_plugin_that_ignores_interrupts_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runctl.cli.proxy.tunnel.END_SECONDS", 0.2)
    deaf = HANDLES_INTERRUPTS.replace("SIGINT, interrupted", "SIGINT, signal.SIG_IGN")
    opened(deaf, tmp_path, reads_variable=True)


def test_a_plugin_that_ends_with_0_has_not_opened_anything(tmp_path: Path) -> None:
    program = "print('Cannot perform start session: no such stream')"
    with pytest.raises(TransientError, match="ended: Cannot perform start session: no such stream"):
        opened(program, tmp_path, reads_variable=True)


def test_a_plugin_that_does_not_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "session-manager-plugin"
    program.write_bytes(b"\x7fELF for another machine")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match=r"session-manager-plugin does not run: .*install it"):
        find_plugin(is_local=False)


def without(document: dict[str, object], name: str) -> str:
    return json.dumps({key: value for key, value in document.items() if key != name})


ARGUMENTS = (
    json.dumps(RESPONSE), "us-east-1", "StartSession", "", json.dumps(REQUEST), "http://127.0.0.1:1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, VARIABLE),  # which is not set
        (0, "MY_RESPONSE"),
        (0, without(RESPONSE, "StreamUrl")),
        (0, without(RESPONSE, "TokenValue")),
        (1, ""),
        (2, "ResumeSession"),
        (3, json.dumps(REQUEST)),
        (4, without(REQUEST, "Target")),
        (4, without(REQUEST, "Parameters")),
        (4, json.dumps({**REQUEST, "Parameters": {"portNumber": 80, "localPortNumber": 90}})),
        (5, "ssm.us-east-1.amazonaws.com"),
        (5, None),
    ],
)
def test_the_plugin_of_the_local_cloud_refuses_what_awss_could_not_use(
    position: int,
    value: str | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_RESPONSE", json.dumps(RESPONSE))
    given: Sequence[str | None] = [*ARGUMENTS[:position], value, *ARGUMENTS[position + 1 :]]
    assert VARIABLE not in os.environ
    assert session_plugin.main([word for word in given if word is not None]) == 0
    assert capsys.readouterr().out.startswith("Cannot perform start session: ")
