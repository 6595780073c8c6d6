"""Whatever a trainer writes to its files of JSON lines, later lines still count."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from runctl.agent.reporting.metrics import CHUNK_BYTES, MetricsShipper
from runctl.agent.reporting.progress import Progress
from runctl.agent.saving.save_events import SaveEvents
from runctl.aws.blobs import Blobs
from runctl.model.checkpoint import MAX_STEP
from runctl.model.errors import TransientError
from runctl.model.metrics import MAX_NAMES
from runctl.model.node import NodeId
from tests.agent.machine import Cloud, wait_until

LONG = 10**400
ATTACKS = [
    b'{"step": %d, "loss": 1}' % LONG,
    b'{"step": 1, "loss": %d}' % LONG,
    b'{"step": 1, "loss": -%d}' % LONG,
    b'{"loss": ' + b"9" * 5000 + b"}",
    b'{"step": 1e400, "loss": -1e400}',
    b'{"step": NaN, "loss": Infinity}',
    b'{"step": -Infinity}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"{" + b'"a": 1, ' * 40_000 + b'"step": 1}',
    b'{"' + b"n" * 200_000 + b'": 1}',
    b"x" * 2_000_000,
    b"\xff\xfe\x00\x80",
    b'{"\\ud800": 1, "\\u001b]52;c;x\\u0007": 2}',
    b'{"step": true, "loss": false}',
    b'{"step": [1], "loss": {"a": 1}}',
    b'{"step": "1"}',
    b"[1, 2]",
    b"3",
    b"null",
    b'"text"',
    b"",
    b'{"step": 5',
    b"%s" % (b"\x00" * 1000),
]


@pytest.fixture
def progress() -> Progress:
    return Progress()


def shipped(cloud: Cloud) -> bytes:
    client = cloud.clients["s3"]
    return b"".join(
        client.get_object(Bucket=cloud.name, Key=key)["Body"].read()
        for key in cloud.keys(f"runs/{cloud.run_id}/metrics/")
    )


def shipper_of(
    cloud: Cloud, path: Path, progress: Progress, blobs: Blobs | None = None
) -> MetricsShipper:
    blobs = blobs or Blobs(cloud.clients["s3"], bucket=cloud.name)
    return MetricsShipper(blobs, path, progress, node=NodeId(cloud.run_id, 1, 0))


@pytest.mark.parametrize("line", ATTACKS, ids=lambda line: ascii(line[:25]))
def test_no_line_of_metrics_ends_the_metrics(
    cloud: Cloud, tmp_path: Path, progress: Progress, line: bytes
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2, "loss": 0.5}\n')
    shipper = shipper_of(cloud, path, progress)
    shipper.start()
    wait_until(lambda: progress.snapshot().step == 2)
    measured = progress.snapshot()
    assert measured.metrics["loss"] == 0.5
    assert all(name.isprintable() for name in measured.metrics)
    cloud.create_run()
    cloud.open_attempt()
    now = datetime.now(timezone.utc)
    cloud.ledger.record_progress(NodeId(cloud.run_id, 1, 0), measured, now=now)  # accepts it all
    shipper.stop(within=timedelta(seconds=60))
    assert shipped(cloud).endswith(b'{"step": 2, "loss": 0.5}\n')


def test_number_of_metric_names_is_bounded(progress: Progress) -> None:
    for number in range(3 * MAX_NAMES):
        progress.measure(number, {f"loss-{number}": 1.0})
    metrics = progress.snapshot().metrics
    assert len(metrics) == MAX_NAMES
    assert f"loss-{3 * MAX_NAMES - 1}" in metrics


@pytest.mark.parametrize("place", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("loop")])
def test_replacement_of_the_file_neither_blocks_nor_ends_the_metrics(
    cloud: Cloud, tmp_path: Path, progress: Progress, place: Callable[[Path], object]
) -> None:
    path = tmp_path / "loop"
    place(path)
    shipper = shipper_of(cloud, path, progress)
    shipper.start()
    time.sleep(0.5)
    path.rmdir() if path.is_dir() else path.unlink()
    path.write_bytes(b'{"step": 7}\n')
    wait_until(lambda: progress.snapshot().step == 7)
    shipper.stop(within=timedelta(seconds=60))


class Unreachable(Blobs):
    """A bucket that cannot be reached at first."""

    def __init__(self, client: Any, *, bucket: str) -> None:
        super().__init__(client, bucket=bucket)
        self.is_there = threading.Event()

    def put(self, key: str, body: bytes) -> None:
        if not self.is_there.is_set():
            raise TransientError("throttled")
        super().put(key, body)


def test_metrics_that_cannot_be_stored_wait_in_the_file_and_not_in_memory(
    cloud: Cloud, tmp_path: Path, progress: Progress
) -> None:
    path = tmp_path / "metrics.jsonl"
    line = b'{"step": 1, "text": "%s"}\n' % (b"x" * 1000)
    path.write_bytes(line * 6000)
    blobs = Unreachable(cloud.clients["s3"], bucket=cloud.name)
    shipper = shipper_of(cloud, path, progress, blobs)
    shipper.start()
    time.sleep(1)
    assert shipper._waiting_bytes < 2 * CHUNK_BYTES
    blobs.is_there.set()
    shipper.stop(within=timedelta(seconds=120))
    assert shipped(cloud) == path.read_bytes()


@pytest.mark.parametrize("line", ATTACKS, ids=lambda line: ascii(line[:25]))
def test_no_line_of_the_helper_hides_the_saves_after_it(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "saved.jsonl"
    path.write_bytes(line + b'\n{"step": 3, "seconds": 1e400}\n')
    saves = SaveEvents(path)
    for _ in range(10):
        saves.read()
    assert saves.step == 3
    assert saves.cost is None


@pytest.mark.parametrize("step", [-1, MAX_STEP + 1, LONG, 1.5, True, None])
def test_step_that_the_ledger_cannot_store_is_not_a_save(tmp_path: Path, step: object) -> None:
    path = tmp_path / "saved.jsonl"
    path.write_text(f'{{"step": {str(step).lower().replace("none", "null")}}}\n')
    saves = SaveEvents(path)
    assert not saves.read()
    assert saves.step is None
