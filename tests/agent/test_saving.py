"""The folder watcher and the checkpoint saver, each in its own thread."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from runctl.agent.reporting.progress import Progress
from runctl.checkpoint.settling import LIMIT
from tests.agent.machine import wait_until
from tests.agent.recording_runtime import RecordingProgram
from tests.agent.savers import Committer, idle_program, start_saver


def test_snapshot_pinned_by_the_last_scan_is_saved_although_the_saver_was_idle(
    tmp_path: Path,
) -> None:
    committer = Committer()
    committer.gate.clear()
    may_scan, is_scanning = threading.Event(), threading.Event()
    may_scan.set()

    class HoldingProgram(RecordingProgram):
        def writers(self) -> set[str]:
            """Hold the scan until the test releases it."""
            is_scanning.set()
            assert may_scan.wait(60)
            return set()

    program = HoldingProgram(idle_program(tmp_path).contract)
    saver = start_saver(tmp_path, committer, tmp_path / "pins", Progress(), program=program)
    (tmp_path / "checkpoint/step-1.bin").write_bytes(b"one")
    assert committer.begun.wait(60)
    (tmp_path / "checkpoint/step-2.bin").write_bytes(b"two")
    time.sleep(1.5)  # until it has settled
    may_scan.clear()
    is_scanning.clear()
    assert is_scanning.wait(60)

    finished: list[bool] = []
    end = threading.Thread(
        target=lambda: finished.append(
            saver.finish(until=time.monotonic() + 60, torn=frozenset(), abrupt=False)
        )
    )
    end.start()
    wait_until(saver._watcher._stop.is_set)
    committer.gate.set()
    wait_until(lambda: saver._watcher._pinned is None)
    saver._thread.join(timeout=0.5)  # it must not end, because the scan is still running
    may_scan.set()
    end.join(60)
    assert finished == [True]
    assert committer.committed == [
        {"step-1.bin": b"one"},
        {"step-1.bin": b"one", "step-2.bin": b"two"},
    ]


def test_a_reported_step_whose_file_is_written_again_is_saved_with_that_file(
    tmp_path: Path,
) -> None:
    is_closed, scans = threading.Event(), []

    class RewritingProgram(RecordingProgram):
        def writers(self) -> set[str]:
            scans.append(time.monotonic())
            return set() if is_closed.is_set() else {"step-5.bin"}

    committer = Committer()
    program = RewritingProgram(idle_program(tmp_path).contract)
    saver = start_saver(tmp_path, committer, tmp_path / "pins", Progress(), program=program)
    (tmp_path / "checkpoint/shared.bin").write_bytes(b"shared")
    (tmp_path / "checkpoint/step-5.bin").write_bytes(b"five")
    (tmp_path / "saved.jsonl").write_text('{"step": 5}\n')
    overdue = time.monotonic() + 2 * LIMIT.total_seconds()
    wait_until(lambda: bool(scans) and scans[-1] > overdue)
    assert committer.committed == []

    is_closed.set()
    assert committer.done.wait(60)
    assert committer.committed == [{"shared.bin": b"shared", "step-5.bin": b"five"}]
    assert saver.finish(until=time.monotonic() + 60, torn=frozenset(), abrupt=False)


def test_a_reported_step_whose_file_was_torn_is_not_saved_without_that_file(
    tmp_path: Path,
) -> None:
    committer = Committer()

    class WritingProgram(RecordingProgram):
        def writers(self) -> set[str]:
            return {"step-5.bin"}

    program = WritingProgram(idle_program(tmp_path).contract)
    saver = start_saver(tmp_path, committer, tmp_path / "pins", Progress(), program=program)
    (tmp_path / "checkpoint/shared.bin").write_bytes(b"shared")
    (tmp_path / "checkpoint/step-5.bin").write_bytes(b"fi")
    (tmp_path / "saved.jsonl").write_text('{"step": 5}\n')
    saver.finish(until=time.monotonic() + 60, torn=frozenset({"step-5.bin"}), abrupt=False)
    assert committer.committed == []
    assert set(committer.partial) == {"shared.bin", "step-5.bin"}
