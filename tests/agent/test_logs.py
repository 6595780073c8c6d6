"""Logs arrive whole, in order, and in batches that the service accepts."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.agent.reporting.display_lines import MAX_EVENT_BYTES
from runctl.agent.reporting.json_lines import Follower
from runctl.agent.reporting.logs import (
    BATCH_BYTES,
    BATCH_EVENTS,
    EVENT_OVERHEAD,
    LogShipper,
    batches,
)
from runctl.aws.logs import LogWriter
from runctl.model.errors import TransientError
from runctl.model.log_fragments import Joiner
from tests.agent.machine import Cloud, wait_until


@given(st.lists(st.integers(1, MAX_EVENT_BYTES), max_size=60))
def test_batches_keep_the_limits_the_order_and_every_event(sizes: list[int]) -> None:
    events = [(number, "x" * size) for number, size in enumerate(sizes)]
    found = batches(events)
    assert [event for batch in found for event in batch] == events
    for batch in found:
        assert sum(len(text) + EVENT_OVERHEAD for _, text in batch) <= BATCH_BYTES


def test_a_batch_has_at_most_ten_thousand_events() -> None:
    assert [len(batch) for batch in batches([(0, "x")] * (BATCH_EVENTS + 1))] == [BATCH_EVENTS, 1]


def test_follower_of_json_returns_whole_lines_and_keeps_the_unfinished_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = Follower(path)
    assert follower.read() == []
    path.write_bytes(b"one\ntwo\r\nthr")
    assert follower.read() == ["one", "two"]
    with path.open("ab") as stream:
        stream.write(b"ee\n50%\r100%\rlast")
    assert follower.read() == ["three", "50%", "100%"]
    assert follower.read() == []
    assert follower.read(everything=True) == ["last"]


def test_everything_is_shipped_by_the_end_however_late_it_came(
    cloud: Cloud, tmp_path: Path
) -> None:
    path = tmp_path / "out"
    shipper = LogShipper(LogWriter(cloud.clients["logs"], group=cloud.name), streams={"s": [path]})
    shipper.start()
    path.write_text("".join(f"line {number}\n" for number in range(25_000)) + "no end")
    shipper.stop(within=timedelta(seconds=30))
    paginator = cloud.clients["logs"].get_paginator("filter_log_events")
    pages = paginator.paginate(logGroupName=cloud.name, logStreamNames=["s"])
    messages = [event["message"] for page in pages for event in page["events"]]
    assert messages == [*(f"line {number}" for number in range(25_000)), "no end"]


class Refusing:
    """A log service that refuses the first puts."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.events: list[str] = []
        self.done = threading.Event()

    def put(self, _stream: str, events: Sequence[tuple[int, str]]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise TransientError("throttled")
        self.events += [text for _, text in events]
        self.done.set()


def test_a_throttled_batch_is_sent_again(tmp_path: Path) -> None:
    client = Refusing(refusals=2)
    path = tmp_path / "out"
    path.write_text("hello\n")
    shipper = LogShipper(client, streams={"s": [path]})
    shipper.start()
    assert client.done.wait(20)
    shipper.stop(within=timedelta(seconds=5))
    assert client.events == ["hello"]


def test_a_service_that_is_gone_does_not_hold_up_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("hello\n")
    shipper = LogShipper(Refusing(refusals=10**6), streams={"s": [path]})
    shipper.start()
    shipper.stop(within=timedelta(seconds=20))
    assert not shipper._thread.is_alive()


def test_shipped_output_frees_its_disk_space_and_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runctl.agent.reporting.growing_file.FREED_BYTES", 64 * 1024)
    monkeypatch.setattr("runctl.agent.reporting.logs.KEPT_BYTES", 4 * 1024)
    client = Refusing(refusals=0)
    path = tmp_path / "out"
    lines = [f"{number:07d} {'x' * 100}" for number in range(20_000)]
    with path.open("a") as trainer:  # as the trainer has it: open for appending, and unaware
        shipper = LogShipper(client, streams={"s": [path]})
        for line in lines:
            print(line, file=trainer)
        trainer.flush()
        shipper.start()
        wait_until(lambda: len(client.events) == len(lines))
        print("the end", file=trainer)
    shipper.stop(within=timedelta(seconds=5))
    assert client.events == [*lines, "the end"]
    info = path.stat()
    assert info.st_size > 2_000_000
    assert info.st_blocks * 512 < 200_000
    assert path.read_bytes().endswith(b"the end\n")


def test_output_that_cannot_be_shipped_does_not_fill_the_disk_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runctl.agent.reporting.growing_file.FREED_BYTES", 64 * 1024)
    monkeypatch.setattr("runctl.agent.reporting.logs.MAX_BACKLOG_BYTES", 1024 * 1024)
    client = Refusing(refusals=2)
    path = tmp_path / "out"
    path.write_text("".join(f"{number:07d} {'x' * 100}\n" for number in range(50_000)))
    shipper = LogShipper(client, streams={"s": [path]})
    shipper.start()
    wait_until(lambda: client.events and client.events[-1].startswith("0049999"))
    shipper.stop(within=timedelta(seconds=5))
    assert any(event.startswith("[runctl left out ") for event in client.events)
    assert path.stat().st_blocks * 512 < 1_200_000


def test_full_disk_does_not_end_the_shipping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    client = Refusing(refusals=0)
    path = tmp_path / "out"
    path.write_bytes(b"one\n")
    shipper = LogShipper(client, streams={"s": [path]})
    shipper.start()
    wait_until(lambda: client.events == ["one"])
    with path.open("ab") as stream:
        stream.write(b"two\n")
    wait_until(lambda: client.events == ["one", "two"])
    shipper.stop(within=timedelta(seconds=5))


def test_restarted_agent_ships_the_rest_of_a_line_and_nothing_twice(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"x" * 600_000)
    first, second = Refusing(refusals=0), Refusing(refusals=0)
    shipper = LogShipper(first, streams={"s": [path]})
    shipper.start()
    mark = tmp_path / "out.shipped"
    wait_until(lambda: mark.exists() and mark.read_text().startswith("600000 "))
    shipper._stop.set()  # for the file, this is the same as a kill
    shipper._thread.join(10)
    with path.open("ab") as stream:
        stream.write(b"yy\nnext\n")
    shipper = LogShipper(second, streams={"s": [path]})
    shipper.start()
    shipper.stop(within=timedelta(seconds=20))
    joiner: Joiner[None] = Joiner()
    lines = [joiner.join(None, event) for event in [*first.events, *second.events]]
    assert [line[1] for line in lines if line] == ["x" * 600_000 + "yy", "next"]


@pytest.mark.parametrize("missing", [True, False])
def test_missing_file_is_empty(tmp_path: Path, missing: bool) -> None:
    path = tmp_path / "log"
    if not missing:
        path.touch()
    assert Follower(path).read(everything=True) == []


def test_lines_that_cannot_be_written_to_a_file_are_shipped_too(
    cloud: Cloud, tmp_path: Path
) -> None:
    waiting = [["first"], ["last"]]
    shipper = LogShipper(
        LogWriter(cloud.clients["logs"], group=cloud.name),
        streams={"s": [tmp_path / "missing"]},
        unwritten={"s": lambda: waiting.pop(0) if waiting else []},
    )
    shipper.start()
    wait_until(lambda: not waiting)
    shipper.stop(within=timedelta(seconds=30))
    events = cloud.clients["logs"].filter_log_events(logGroupName=cloud.name)["events"]
    assert [event["message"] for event in events] == ["first", "last"]
