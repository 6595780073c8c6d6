"""The image of a run: pulled when the registry answers, and the one that was recorded first."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from runctl.agent.prepare import image as image_module
from runctl.agent.prepare.image import Images, read_image, requested_image
from runctl.agent.prepare.image_facts import find_user
from runctl.agent.runtime.engine import Engine
from runctl.agent.signals.mailbox import Mailbox
from runctl.agent.signals.waiting import CancellableWait
from runctl.model.docker_options import DockerOptions
from runctl.model.errors import RequestError
from runctl.model.image import Image
from runctl.model.request import RunRequest
from runctl.model.run import Run
from tests import docker_engine
from tests.agent.containers import make_client
from tests.agent.machine import wait_until
from tests.docker_engine import (
    Registry,
    needs_engine,
    needs_registry,
    serving_engine,
    serving_registry,
)

pytestmark = [needs_engine, needs_registry, pytest.mark.slow]


class Ledger:
    """A ledger that has recorded an image before, or records the first that it is given."""

    def __init__(self, recorded: Image | None = None) -> None:
        self.recorded = recorded

    def record_image(self, _run_id: str, image: Image) -> Image:
        self.recorded = self.recorded or image
        return self.recorded


class Log(io.StringIO):
    """A log that can be opened several times."""

    def __exit__(self, *_: object) -> None:
        return None


@pytest.fixture(scope="module")
def engine() -> Iterator[docker_engine.Engine]:
    with serving_engine() as engine:
        engine.import_base("busybox", "busybox")
        yield engine


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with serving_registry() as registry:
        yield registry


def run_of(**docker: str) -> Run:
    return Run(
        run_id="run-1",
        request=RunRequest.of(docker=DockerOptions(**docker)),
        started_at=datetime.now(timezone.utc),
        execution="run-1",
        execution_arn="arn",
    )


def images(client: Engine, ledger: Ledger, log: Log) -> Images:
    return Images(
        client,
        ledger,
        None,
        secret_of=lambda _text: "",
        wait=CancellableWait(Mailbox()),
        log=lambda: log,
    )


def variant(engine: docker_engine.Engine, folder: Path, name: str) -> str:
    (folder / "Dockerfile").write_text(f"FROM busybox\nENV NAME={name}\n")
    return engine.docker("build", "--quiet", folder).strip()


@pytest.mark.parametrize(
    ("docker", "login"),
    [
        ({"image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/train:1"}, "ecr"),
        (
            {"image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/a:1", "login": "secret:a"},
            "secret:a",
        ),
        ({"image": "user/train:1", "login": "secret:hub"}, "secret:hub"),
        ({"image": "user/train:1"}, ""),
        ({"archive": "s3://b/a.tar"}, ""),
    ],
)
def test_image_of_any_ecr_is_pulled_with_the_role_unless_there_is_a_login(
    docker: dict[str, str], login: str
) -> None:
    assert requested_image(run_of(**docker)).login == login


def test_image_that_another_attempt_has_recorded_first_is_pulled_instead(
    engine: docker_engine.Engine, registry: Registry, tmp_path: Path
) -> None:
    address = registry.name("raced")
    first = engine.push(variant(engine, tmp_path, "first"), address)
    engine.push(variant(engine, tmp_path, "second"), address)
    reference = address.replace(":latest", f"@{first}")
    ledger = Ledger(Image(reference=reference, digest=first))
    ready = images(make_client(engine), ledger, Log()).get(run_of(image=address))
    assert ready.environment["NAME"] == "first"


def test_recorded_image_is_not_pulled_where_it_is_already(
    engine: docker_engine.Engine, registry: Registry, tmp_path: Path
) -> None:
    address, ledger, log = registry.name("kept"), Ledger(), Log()
    engine.push(variant(engine, tmp_path, "kept"), address)
    found = images(make_client(engine), ledger, log)
    found.get(run_of(image=address))
    assert f"pulling {address}\n" in log.getvalue()
    again = Log()
    known = replace(run_of(image=address), image=ledger.recorded)
    assert images(make_client(engine), ledger, again).get(known).environment["NAME"] == "kept"
    assert again.getvalue() == ""


def test_registry_that_is_down_is_tried_again_until_it_answers(
    engine: docker_engine.Engine,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(image_module, "RETRY", image_module.timedelta(milliseconds=100))
    engine.push(variant(engine, tmp_path, "late"), registry.name("late"))
    engine.docker("image", "rm", "--force", registry.name("late"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # nothing listens there yet
        address = f"127.0.0.1:{listener.getsockname()[1]}/late:latest"
        found: list[str] = []

        def get() -> None:
            ready = images(make_client(engine), Ledger(), Log()).get(run_of(image=address))
            found.append(ready.environment["NAME"])

        thread = threading.Thread(target=get)
        thread.start()
        wait_until(lambda: "trying again" in caplog.text)
        listener.listen()
        forwarder = threading.Thread(target=forward, args=(listener, registry), daemon=True)
        forwarder.start()
        thread.join(120)
    assert found == ["late"]


def forward(listener: socket.socket, registry: Registry) -> None:
    """Connect whoever calls with the registry, until the listener is closed."""
    host, _, port = registry.address.partition(":")
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.create_connection((host, int(port)))
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=pump, args=(source, target), daemon=True).start()


def pump(source: socket.socket, target: socket.socket) -> None:
    # The other direction may have closed both.
    with contextlib.suppress(OSError), source, target:
        while data := source.recv(65536):
            target.sendall(data)


def test_registry_that_stays_down_ends_the_run_with_its_last_words(
    engine: docker_engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_module, "REGISTRY_TIMEOUT", image_module.timedelta(0))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}/none:1"
        with pytest.raises(RequestError, match=f"the image {address} could not be pulled: .*refus"):
            images(make_client(engine), Ledger(), Log()).get(run_of(image=address))


@pytest.mark.parametrize(
    ("user", "numbers"),
    [
        ("", None),
        ("root", None),
        ("0:0", None),
        ("1234", (1234, 0)),
        ("1234:5678", (1234, 5678)),
        ("trainer", (1001, 1002)),
        ("1001", (1001, 1002)),
        ("trainer:staff", (1001, 50)),
        ("trainer:77", (1001, 77)),
    ],
)
def test_user_of_an_image_is_found_by_name_and_by_number(
    engine: docker_engine.Engine, tmp_path: Path, user: str, numbers: tuple[int, int] | None
) -> None:
    line = f"USER {user}\n" if user else ""
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN echo trainer:x:1001:1002::/:/bin/sh >> /etc/passwd "
        f"&& echo staff:x:50:trainer >> /etc/group\n{line}"
    )
    client = make_client(engine)
    image = engine.docker("build", "--quiet", tmp_path).strip()
    found = client.inspect("image", image)
    assert found is not None
    assert find_user(client, read_image(found)) == numbers
    assert engine.docker("ps", "--all", "--quiet") == ""


@pytest.mark.parametrize("user", ["nobody-there", "root:nogroup-there", "1234:no"])
def test_user_that_the_image_does_not_know_is_refused_with_the_remedy(
    engine: docker_engine.Engine, tmp_path: Path, user: str
) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\nUSER {user}\n")
    client = make_client(engine)
    found = client.inspect("image", engine.docker("build", "--quiet", tmp_path).strip())
    assert found is not None
    with pytest.raises(RequestError, match=f"the image's USER {user} is not in its /etc/passwd"):
        find_user(client, read_image(found))
