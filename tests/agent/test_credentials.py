"""The credentials that a trainer requested: it gets them, and nobody else does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import psutil
import pytest

from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime import credentials
from runctl.agent.runtime.credentials import CredentialsEndpoint
from runctl.model.errors import RefusedError, TransientError
from runctl.model.session_credentials import SessionCredentials
from tests.agent.machine import Cloud, wait_until

URI, TOKEN = "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"

# Prints the credentials with which a client would sign, once for each line on its input.
READER = """
import sys, boto3
session = boto3.Session(region_name="us-east-1")
for line in sys.stdin:
    found = session.get_credentials().get_frozen_credentials()
    print(found.access_key, found.secret_key, found.token, flush=True)
"""

# Sends a request to S3 with the credentials in the environment.
LISTER = """
import boto3, json, os
session = boto3.Session()
keys = boto3.client("s3").list_objects_v2(Bucket=os.environ["BUCKET"])["KeyCount"]
found = session.get_credentials()
print(json.dumps([found.method, found.access_key, found.secret_key, session.region_name, keys]))
"""


def of_number(number: int, *, minutes: float = 60) -> SessionCredentials:
    return SessionCredentials(
        access_key=f"ASIA{number}",
        secret_key=f"secret-{number}",
        token=f"session-{number}",
        expires_at=datetime.now(timezone.utc) + timedelta(minutes=minutes),
    )


@pytest.fixture
def serve() -> Iterator[Callable[..., CredentialsEndpoint]]:
    opened: list[CredentialsEndpoint] = []

    def start(fetch: Callable[[], SessionCredentials], **options: Any) -> CredentialsEndpoint:
        endpoint = CredentialsEndpoint(fetch, progress=options.pop("progress", Progress()))
        endpoint.start()
        opened.append(endpoint)
        return endpoint

    yield start
    for endpoint in opened:
        endpoint.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "RETRY", timedelta(milliseconds=10))


def ask(url: str, authorization: str | None) -> tuple[int, dict[str, str]]:
    headers = {} if authorization is None else {"Authorization": authorization}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.loads(exc.read())


@pytest.mark.usefixtures("at_once")
def test_a_plain_client_gets_credentials_and_newer_ones_before_they_expire(serve) -> None:
    renewed, may_renew, count = threading.Event(), threading.Event(), iter(range(1, 10))

    def fetch() -> SessionCredentials:
        number = next(count)
        if number == 1:
            return of_number(1, minutes=5)
        may_renew.wait(30)
        renewed.set()
        return of_number(number)

    variables = serve(fetch).as_environment()
    with subprocess.Popen(
        [sys.executable, "-c", READER],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:

        def held() -> str:
            reader.stdin.write("?\n")
            reader.stdin.flush()
            return reader.stdout.readline().strip()

        assert held() == "ASIA1 secret-1 session-1"
        may_renew.set()
        assert renewed.wait(10)
        wait_until(lambda: held() == "ASIA2 secret-2 session-2")
        reader.stdin.close()


def test_a_caller_without_the_token_gets_nothing(serve) -> None:
    variables = serve(lambda: of_number(1)).as_environment()
    url, token = variables[URI], variables[TOKEN]
    for wrong in (None, "", token[:-1], f"{token}x", f"Bearer {token}", "ü"):
        status, document = ask(url, wrong)
        assert status == (401 if wrong is None else 403), wrong
        assert "secret-1" not in str(document)
    assert ask(url.replace("credentials", "other"), token)[0] == 404
    status, document = ask(url, token)
    assert (status, document["AccessKeyId"], document["Token"]) == (200, "ASIA1", "session-1")
    assert datetime.fromisoformat(document["Expiration"].replace("Z", "+00:00")) > datetime.now(
        timezone.utc
    )


@pytest.mark.usefixtures("at_once")
def test_expired_credentials_are_not_served_and_the_status_says_why(serve) -> None:
    progress, calls = Progress(), iter([of_number(1, minutes=-1)])
    away = threading.Event()

    def fetch() -> SessionCredentials:
        if (held := next(calls, None)) is not None:
            return held
        if away.is_set():
            return of_number(2)
        raise TransientError("AWS cannot be reached")

    variables = serve(fetch, progress=progress).as_environment()
    assert ask(variables[URI], variables[TOKEN])[0] == 503
    wait_until(lambda: "cannot be fetched: AWS cannot" in progress.snapshot().warning)
    away.set()
    wait_until(lambda: ask(variables[URI], variables[TOKEN])[0] == 200)
    wait_until(lambda: progress.snapshot().warning == "")


def test_without_a_first_session_nothing_listens(serve) -> None:
    def fetch() -> SessionCredentials:
        raise RefusedError("no")

    before = threading.active_count()
    progress = Progress()
    endpoint = CredentialsEndpoint(fetch, progress=progress)
    with pytest.raises(RefusedError):
        endpoint.start()
    endpoint.close()
    assert progress.snapshot().warning == "the trainer's credentials cannot be fetched: no"
    assert endpoint.as_environment() == {}
    assert threading.active_count() == before


def listening(pid: int) -> list[tuple[str, int]]:
    found = psutil.Process(pid).net_connections("tcp")
    return [tuple(socket.laddr) for socket in found if socket.status == psutil.CONN_LISTEN]


def start(cloud: Cloud, launch, program: str, *, env: dict[str, str] | None = None, **request: Any):
    """Start an attempt whose trainer has boto3, without another installation."""
    cloud.create_run(
        program,
        script="",
        command=(sys.executable, "train.py"),
        env={"BUCKET": cloud.name, **(env or {})},
        **request,
    )
    cloud.open_attempt()
    cloud.give_token()
    return launch()


@pytest.mark.slow
def test_a_trainer_that_requests_credentials_has_its_own_session_and_the_log_no_secret(
    cloud: Cloud, launch
) -> None:
    machine = start(
        cloud,
        launch,
        LISTER + "import time\ntime.sleep(100)\n",
        env={"PYTHONUNBUFFERED": "1"},
        credentials="run",
    )
    output = machine.state / "log/trainer.out"
    wait_until(lambda: output.exists() and output.read_text().endswith("]\n"))
    method, key, secret, region, count = json.loads(output.read_text())
    assert (method, region) == ("container-role", "us-east-1")
    assert count > 0
    ((host, _port),) = listening(machine.process.pid)
    assert host == "127.0.0.1"
    machine.ask("stop")
    assert cloud.outcome()["kind"] == "stopped"
    assert machine.wait() == 0
    log = machine.agent_log()
    assert key not in log
    assert secret not in log


@pytest.mark.slow
def test_without_a_request_a_trainer_gets_no_credentials_and_nothing_listens(
    cloud: Cloud, launch
) -> None:
    program = "import os, json, time\nprint(json.dumps(dict(os.environ)), flush=True)\n"
    machine = start(cloud, launch, program + "time.sleep(100)\n")
    output = machine.state / "log/trainer.out"
    wait_until(lambda: output.exists() and output.read_text().endswith("}\n"))
    assert not [name for name in json.loads(output.read_text()) if name.startswith("AWS_")]
    assert listening(machine.process.pid) == []


@pytest.mark.slow
def test_a_trainer_that_the_function_refuses_is_reported_as_such(cloud: Cloud, launch) -> None:
    cloud.sessions.refusals["trainer"] = {"status": "refused", "reason": "no role for trainers"}
    cloud.create_run("print('never')", credentials="run")
    cloud.open_attempt()
    cloud.give_token()
    launch()
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert outcome["reason"].startswith("credentials: the trainer gets none: ")
    assert "no role for trainers" in outcome["reason"]
