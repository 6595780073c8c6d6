"""The agent's ports: it works with anything that keeps their promises, such as a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from runctl.agent.prepare.code import fetch_code
from runctl.agent.reporting.logs import LogShipper
from runctl.agent.reporting.metrics import MetricsShipper
from runctl.agent.reporting.outputs import upload_outputs
from runctl.agent.reporting.progress import Progress
from runctl.beneath.opened_file import OpenedFile
from runctl.model.errors import NotFoundError, RequestError, TransientError
from runctl.model.node import NodeId
from runctl.model.request_parsing import parse_request
from tests.agent.machine import wait_until


@dataclass
class FolderBlob:
    """A file of the folder."""

    size_bytes: int
    chunks: Iterator[bytes]


@dataclass
class Folder:
    """Objects as files of a folder; the first `failures` writes fail."""

    path: Path
    failures: int = 0

    def put(self, key: str, body: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise TransientError("come back later")
        (self.path / key).parent.mkdir(parents=True, exist_ok=True)
        (self.path / key).write_bytes(body)

    @contextlib.contextmanager
    def open(self, key: str, *, bucket: str = "") -> Iterator[FolderBlob]:
        try:
            content = (self.path / key).read_bytes()
        except FileNotFoundError as exc:
            raise NotFoundError(f"{bucket}/{key}") from exc
        yield FolderBlob(len(content), iter([content]))

    def keys(self, prefix: str) -> list[str]:
        files = (path for path in self.path.rglob("*") if path.is_file())
        found = (path.relative_to(self.path).as_posix() for path in files)
        return sorted(key for key in found if key.startswith(prefix))


@dataclass
class Written:
    """Outputs that remember who wrote them."""

    attempts: dict[str, int] = field(default_factory=dict)

    def put(self, name: str, file: OpenedFile, *, attempt: int) -> bool:
        file.read(0, file.size_bytes)
        if self.attempts.get(name, 0) > attempt:
            return False
        self.attempts[name] = attempt
        return True


@dataclass
class Lines:
    """Log streams in memory; the first `failures` batches fail."""

    failures: int = 0
    lines: dict[str, list[str]] = field(default_factory=dict)

    def put(self, stream: str, events: Sequence[tuple[int, str]]) -> None:
        if self.failures:
            self.failures -= 1
            raise TransientError("come back later")
        self.lines.setdefault(stream, []).extend(text for _, text in events)


def test_code_comes_from_a_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "there")
    folder.put("train.py", b"print()")
    request = parse_request({"script": "s3://any/train.py"})
    assert fetch_code(folder, request, tmp_path / "project") == "train.py"
    assert (tmp_path / "project/train.py").read_bytes() == b"print()"
    missing = parse_request({"script": "s3://any/missing.py"})
    with pytest.raises(RequestError, match="does not exist or may not be read"):
        fetch_code(folder, missing, tmp_path / "project")


def test_metrics_go_to_a_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "there", failures=1)
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n')
    shipper = MetricsShipper(folder, path, Progress(), node=NodeId("r", 1, 0))
    shipper.start()
    shipper.stop(within=timedelta(seconds=60))
    assert not folder.failures
    assert folder.keys("") == []
    shipper._ship()
    (key,) = folder.keys("runs/r/metrics/")
    assert (folder.path / key).read_text() == path.read_text()


def test_outputs_go_elsewhere(tmp_path: Path) -> None:
    written = Written()
    (tmp_path / "model.bin").write_bytes(b"x")
    assert upload_outputs(written, tmp_path, attempt=2) == 1
    assert upload_outputs(written, tmp_path, attempt=1) == 0
    assert written.attempts == {"model.bin": 2}


def test_lines_go_elsewhere_and_none_is_lost(tmp_path: Path) -> None:
    lines = Lines(failures=2)
    path = tmp_path / "out"
    path.write_text("one\ntwo\n")
    shipper = LogShipper(lines, streams={"s": [path]})
    shipper.start()
    wait_until(lambda: lines.lines.get("s"))
    shipper.stop(within=timedelta(seconds=60))
    assert lines.lines == {"s": ["one", "two"]}
