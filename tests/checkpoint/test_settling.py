"""When a checkpoint folder counts as whole: the ways in which real programs save."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runctl.checkpoint.pinning
from runctl.checkpoint.pinned_files import pin_name
from runctl.checkpoint.pinning import TINY_BYTES, pin, read_pinned
from runctl.checkpoint.settling import ChangedError, FileState, FolderState, Settling, scan_folder


def a_file(size: int = 10, *, inode: int = 1, at: int = 1) -> FileState:
    return FileState("file", 0o644, at, size, (1, inode))


def a_folder() -> FileState:
    return FileState("dir", 0o755, 1)


def settling(taken: FolderState | None = None) -> Settling:
    return Settling(
        taken or {},
        quiet=timedelta(seconds=1),
        limit=timedelta(seconds=5),
        log_age=timedelta(seconds=30),
    )


def test_unchanged_folder_is_never_saved() -> None:
    folder = {"a": a_file()}
    judge = settling(folder)
    assert not any(judge.observe(folder, set(), now) for now in range(100))


def test_a_save_settles_once_it_is_closed_and_quiet() -> None:
    judge = settling()
    assert judge.observe({"step-1.bin": a_file(5)}, {"step-1.bin"}, 0) is None
    assert judge.observe({"step-1.bin": a_file(9, at=2)}, set(), 0.5) is None
    snapshot = judge.observe({"step-1.bin": a_file(9, at=2)}, set(), 1.6)
    assert snapshot is not None
    assert snapshot.changed == ("step-1.bin",)
    assert judge.observe({"step-1.bin": a_file(9, at=2)}, set(), 9) is None


def test_a_snapshot_overtaken_by_the_next_save_is_retried_at_the_next_scan() -> None:
    """Like a program that replaces its file ten times a second."""
    judge = settling()
    looks = [({"model.pt": a_file(inode=number, at=number)}, number / 5) for number in range(40)]
    takes = [judge.observe(view, set(), now) for view, now in looks[:26]]
    assert takes[:25] == [None] * 25
    assert takes[25] is not None
    judge.forget_snapshot({}, at_once=True)
    view, now = looks[26]
    assert judge.observe(view, set(), now) is not None
    # After any other failure to read it, the wait begins again.
    judge.forget_snapshot({})
    assert all(judge.observe(view, set(), now) is None for view, now in looks[27:])


def test_a_save_reported_after_its_snapshot_is_saved_once_more() -> None:
    judge, folder = settling(), {"model.pt": a_file()}
    judge.observe(folder, set(), 0)
    assert judge.observe(folder, set(), 2) is not None
    assert judge.observe(folder, set(), 3) is None
    assert judge.observe(folder, {"model.pt"}, 4, saved=True) is None  # it is written to again
    snapshot = judge.observe(folder, set(), 5, saved=True)
    assert snapshot is not None
    assert (snapshot.view, snapshot.changed) == (folder, ())
    assert judge.observe({}, set(), 6, saved=True) is None
    for abrupt in (False, True):
        assert judge.final(folder, 9, torn=frozenset(), abrupt=abrupt) is None
        last = judge.final(folder, 9, torn=frozenset(), abrupt=abrupt, saved=True)
        assert last is not None
        assert last.changed == ()


def test_an_open_file_delays_a_save_however_quiet_it_is() -> None:
    judge = settling()
    folder = {"model.pt": a_file()}
    assert all(judge.observe(folder, {"model.pt"}, now) is None for now in range(60))


def test_a_save_that_the_helper_renamed_settles_at_once() -> None:
    judge = settling()
    assert judge.observe({"step-1.bin": a_file()}, set(), 0, saved=True) is not None


def test_finished_saves_of_a_program_that_never_pauses_are_stored() -> None:
    judge = settling()
    taken = []
    folder: FolderState = {}
    for tick in range(100):
        epoch = tick // 5
        folder[f"epoch-{epoch}.bin"] = a_file(1 + tick % 5, inode=epoch, at=tick)
        open_file = {f"epoch-{epoch}.bin"} if tick % 5 < 4 else set()
        if snapshot := judge.observe(dict(folder), open_file, tick * 0.2):
            taken.append(snapshot)
            assert open_file.isdisjoint(snapshot.view)
    assert len(taken) >= 3


def test_a_folder_written_file_by_file_is_left_out_until_it_is_finished() -> None:
    judge = settling()
    folder: FolderState = {"checkpoint-1": a_folder(), "checkpoint-1/model.bin": a_file(inode=1)}
    for tick in range(40):  # the second file stays open, beyond the limit
        folder["checkpoint-1/optimizer.bin"] = a_file(tick, inode=2, at=tick)
        assert judge.observe(dict(folder), {"checkpoint-1/optimizer.bin"}, tick * 0.25) is None
    snapshot = judge.observe(dict(folder), set(), 30)
    assert snapshot is not None
    assert set(snapshot.view) == set(folder)


def test_adjacent_files_of_one_save_are_stored_together_or_not_at_all() -> None:
    before = {"model.pt": a_file(inode=1), "optimizer.pt": a_file(inode=2)}
    judge = settling(before)
    half = {"model.pt": a_file(inode=3, at=9), "optimizer.pt": a_file(3, inode=2, at=9)}
    for tick in range(40):
        half["optimizer.pt"] = a_file(tick, inode=2, at=10 + tick)
        assert judge.observe(dict(half), {"optimizer.pt"}, tick * 0.25) is None


def test_numbered_files_of_one_save_belong_together() -> None:
    judge = settling()
    folder = {"model-5.pt": a_file(inode=1)}
    for tick in range(40):
        folder["optimizer-5.pt"] = a_file(tick, inode=2, at=tick)
        assert judge.observe(dict(folder), {"optimizer-5.pt"}, tick * 0.25) is None


def test_what_a_save_in_progress_overwrites_is_left_out_and_marked() -> None:
    before = {"last.pt": a_file(inode=1), "epoch-1.pt": a_file(inode=2)}
    judge = settling(before)
    folder = {**before, "epoch-2.pt": a_file(inode=3)}
    snapshot = None
    for tick in range(40):
        folder["last.pt"] = a_file(tick, inode=1, at=10 + tick)
        snapshot = snapshot or judge.observe(dict(folder), {"last.pt"}, tick * 0.25)
    assert snapshot is not None
    assert snapshot.is_incomplete("last.pt")
    assert not snapshot.is_incomplete("epoch-2.pt")
    assert "epoch-2.pt" in snapshot.view
    assert judge.taken["last.pt"] == before["last.pt"]


def test_a_log_that_is_open_for_the_whole_run_eventually_delays_nothing() -> None:
    judge = settling()
    folder: FolderState = {}
    waits: list[float] = []
    saved_at = 0.0
    for tick in range(1000):
        now = tick * 0.2
        folder["events.log"] = a_file(tick * 10, inode=99, at=tick)
        if tick % 100 == 50:  # a save every 20 s
            folder["model.pt"] = a_file(inode=1, at=tick)
            saved_at = now
        if judge.observe(dict(folder), {"events.log"}, now):
            waits.append(now - saved_at)
    assert len(waits) >= 9
    # Once it is known to be a log, a save waits only for its own quiet moment.
    assert all(wait <= 1.5 for wait in waits[1:])
    assert judge.taken["events.log"].size > 0


def test_a_save_that_got_stuck_is_not_mistaken_for_a_log() -> None:
    judge = settling()
    for tick in range(600):
        folder = {
            "metrics.json": a_file(inode=1, at=tick // 50),
            "model.pt": a_file(5000, inode=2, at=0),
        }
        assert judge.observe(folder, {"model.pt"}, tick * 0.2) is None


def test_a_slow_large_save_is_not_mistaken_for_a_log() -> None:
    judge = settling()
    megabyte = 1024 * 1024
    for tick in range(600):
        now = tick * 0.2
        folder = {
            "metrics.json": a_file(inode=1, at=tick // 50),
            "model.pt": a_file(tick * megabyte, inode=2, at=tick),
        }
        snapshot = judge.observe(folder, {"model.pt"}, now)
        assert snapshot is None or "model.pt" not in snapshot.view


def test_a_writer_that_exits_in_order_settles_the_folder_at_once() -> None:
    judge = settling()
    judge.observe({"step-1.bin": a_file(1)}, {"step-1.bin"}, 0)
    snapshot = judge.final({"step-1.bin": a_file(9, at=5)}, 0.1, torn=frozenset(), abrupt=False)
    assert snapshot is not None
    assert snapshot.changed == ("step-1.bin",)


def test_file_that_was_open_when_killed_is_left_out_and_the_rest_is_stored() -> None:
    before = {"step-1.bin": a_file(9, inode=1)}
    judge = settling(before)
    folder = {
        **before,
        "step-2.bin": a_file(9, inode=2),
        "step-3": a_folder(),
        "step-3/a.bin": a_file(9, inode=3),
        "step-3/b.bin": a_file(4, inode=4),
    }
    snapshot = judge.final(folder, 0.1, torn=frozenset({"step-3/b.bin"}), abrupt=False)
    assert snapshot is not None
    assert set(snapshot.view) == {"step-1.bin", "step-2.bin"}
    assert snapshot.changed == ("step-2.bin",)
    assert snapshot.is_incomplete("step-3/a.bin")
    assert not snapshot.is_incomplete("step-2.bin")


@pytest.mark.parametrize("abrupt", [False, True])
def test_torn_file_whose_predecessor_was_removed_leaves_the_previous_checkpoint(
    abrupt: bool,
) -> None:
    judge = settling({"step-1.bin": a_file(9, inode=1), "log.txt": a_file(5, inode=7)})
    torn = {"step-2.bin": a_file(4, inode=2), "log.txt": a_file(6, inode=7, at=2)}
    snapshot = judge.final(torn, 5, torn=frozenset({"step-2.bin"}), abrupt=abrupt)
    # The log may count; what would then be alone with it stays as it was.
    assert snapshot is None or (
        snapshot.is_incomplete("step-1.bin") and snapshot.is_incomplete("step-2.bin")
    )
    assert (
        judge.final(
            {"step-2.bin": torn["step-2.bin"]}, 9, torn=frozenset({"step-2.bin"}), abrupt=abrupt
        )
        is None
    )


def test_after_a_kill_finished_saves_count_although_another_is_unfinished() -> None:
    judge = settling()
    folder = {"step-1.bin": a_file(inode=1)}
    judge.watch_only(folder, set(), 0)
    folder = {**folder, "step-2.bin": a_file(5, inode=2)}
    snapshot = judge.final(folder, 5, torn=frozenset(), abrupt=True)
    assert snapshot is not None
    assert set(snapshot.view) == {"step-1.bin"}


@pytest.mark.parametrize("last_look", [0.0, 5.0])
def test_after_a_kill_a_file_that_was_open_is_not_stored(last_look: float) -> None:
    judge = settling()
    folder = {"step-1.bin": a_file(1)}
    judge.observe(folder, {"step-1.bin"}, 0)
    judge.observe(folder, {"step-1.bin"}, last_look)
    assert judge.final(folder, last_look + 0.1, torn=frozenset(), abrupt=True) is None


def test_after_a_kill_recent_changes_are_not_stored() -> None:
    judge = settling()
    folder = {"checkpoint-1": a_folder(), "checkpoint-1/model.bin": a_file()}
    judge.observe(folder, set(), 0)
    assert judge.final(folder, 0.5, torn=frozenset(), abrupt=True) is None


def test_after_a_kill_a_quiet_save_is_stored() -> None:
    judge = settling({})
    folder = {"step-1.bin": a_file()}
    judge.watch_only(folder, set(), 0)
    assert judge.final(folder, 1.5, torn=frozenset(), abrupt=True) is not None


def test_after_a_kill_quiet_due_to_a_dead_writer_does_not_count() -> None:
    judge = settling({})
    folder = {"step-1.bin": a_file()}
    judge.watch_only(folder, set(), 0)
    last = {"torn": frozenset[str](), "abrupt": True}
    assert judge.final(folder, 9, alive_at=0.2, **last) is None
    assert judge.final(folder, 9, alive_at=1.2, **last) is not None


def test_after_a_kill_changes_since_the_last_scan_are_not_stored() -> None:
    judge = settling()
    judge.watch_only({"step-1.bin": a_file(5)}, set(), 0)
    assert judge.final({"step-1.bin": a_file(6, at=2)}, 5, torn=frozenset(), abrupt=True) is None


def test_a_file_overwritten_without_pause_next_to_an_open_log_is_stored_when_closed() -> None:
    judge = settling()
    taken = []
    for tick in range(60):
        folder = {
            "state.bin": a_file(10, inode=1, at=tick),
            "train.log": a_file(tick + 1, inode=2, at=tick),
        }
        writing = {"train.log"} | ({"state.bin"} if tick % 3 else set())
        if snapshot := judge.observe(folder, writing, tick * 0.2):
            taken.append(tick)
            assert tick % 3 == 0
            assert set(snapshot.view) == {"state.bin", "train.log"}
            assert snapshot.logs == {"train.log"}
            assert snapshot.recently_modified == {"state.bin"}
    assert len(taken) >= 2


def test_two_files_overwritten_without_pause_are_stored_only_after_a_longer_wait() -> None:
    judge = settling()
    first = None
    for tick in range(300):
        folder = {"a.bin": a_file(10, inode=1, at=tick), "b.bin": a_file(10, inode=2, at=tick)}
        if judge.observe(folder, set(), tick * 0.2) and first is None:
            first = tick * 0.2
    assert first is not None
    assert first >= 5 * 5


def test_a_recent_file_that_is_overwritten_in_place_is_copied_or_refused(
    tmp_path,
) -> None:
    folder, pins = tmp_path / "folder", tmp_path / "pins"
    folder.mkdir()
    (folder / "state.bin").write_bytes(b"one")
    view = scan_folder(folder)
    pin(folder, view, pins, recently_modified=frozenset(view))
    (folder / "state.bin").write_bytes(b"two!")
    assert (pins / pin_name(view["state.bin"])).read_bytes() == b"one"
    with pytest.raises(ChangedError):
        pin(folder, view, pins, recently_modified=frozenset(view))


def test_tiny_files_are_read_instead_of_linked(tmp_path: Path) -> None:
    folder, pins = tmp_path / "folder", tmp_path / "pins"
    folder.mkdir()
    (folder / "tiny.json").write_bytes(b"{}")
    (folder / "tiny-again.json").hardlink_to(folder / "tiny.json")
    (folder / "empty").touch()
    (folder / "weights.bin").write_bytes(bytes(TINY_BYTES + 1))
    view = scan_folder(folder)
    contents: dict[tuple[int, int], bytes] = {}
    assert pin(folder, view, pins, recently_modified=frozenset(view), contents=contents) == view
    (folder / "tiny.json").write_bytes(b"[1]")
    assert contents == {view["tiny.json"].inode: b"{}"}
    linked = {pin_name(view["empty"]), pin_name(view["weights.bin"])}
    assert {path.name for path in pins.iterdir()} == linked
    assert read_pinned(view, contents, pins, "tiny.json", 1, 5) == b"}"
    assert read_pinned(view, contents, pins, "weights.bin", 0, 2) == bytes(2)


def test_tiny_file_that_changed_since_the_scan_is_not_stored(tmp_path: Path) -> None:
    folder, pins = tmp_path / "folder", tmp_path / "pins"
    folder.mkdir()
    (folder / "state.json").write_bytes(b"one")
    view = scan_folder(folder)
    (folder / "state.json").write_bytes(b"2")
    contents: dict[tuple[int, int], bytes] = {}
    with pytest.raises(ChangedError):
        pin(folder, view, pins, recently_modified=frozenset(view), contents=contents)
    (folder / "new.json").write_bytes(b"new")
    (folder / "new.json").replace(folder / "state.json")
    with pytest.raises(ChangedError):
        pin(folder, view, pins, contents=contents)
    (folder / "state.json").unlink()
    assert pin(folder, view, pins, contents=contents) == {}
    assert contents == {}


def test_memory_for_tiny_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runctl.checkpoint.pinning, "MAX_CONTENT_BYTES", 10)
    folder, pins = tmp_path / "folder", tmp_path / "pins"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.json").write_bytes(b"four")
    view = scan_folder(folder)
    contents: dict[tuple[int, int], bytes] = {}
    pin(folder, view, pins, contents=contents)
    assert list(contents.values()) == [b"four"] * 2
    assert len(list(pins.iterdir())) == 3


def test_folder_that_was_emptied_is_not_a_checkpoint() -> None:
    judge = settling({"model.pt": a_file()})
    assert not any(judge.observe({}, set(), now) for now in range(60))
    assert not any(judge.observe({"empty": a_folder()}, set(), 60 + now) for now in range(60))
    assert judge.final({}, 200, torn=frozenset(), abrupt=False) is None
    fresh = {"model.pt": a_file(inode=2, at=9)}
    assert judge.observe(fresh, set(), 201) is None
    assert judge.observe(fresh, set(), 203) is not None


NAMES = ("model.bin", "step-1.bin", "step-2.bin", "run-3/a.bin", "run-3/b.bin")
MOVES = st.lists(
    st.tuples(
        st.sampled_from(["open", "write", "close", "replace", "remove", "wait"]),
        st.sampled_from(NAMES),
        st.sampled_from([0.1, 0.3, 1.1, 6.0]),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(MOVES)
def test_whatever_a_program_does_no_open_file_is_stored_except_logs(moves: Any) -> None:
    judge, view, writing, now = settling(), FolderState(), set(), 0.0
    for number, (move, name, pause, told) in enumerate(moves, start=1):
        if move == "open":
            writing.add(name)
            view[name] = a_file(0, inode=number, at=number)
        elif move == "write" and name in writing:
            view[name] = replace(view[name], size=view[name].size + 1, mtime_ns=number)
        elif move == "replace":
            writing.discard(name)
            view[name] = a_file(inode=number, at=number)
        elif move == "remove":
            writing.discard(name)
            view.pop(name, None)
        elif move == "close":
            writing.discard(name)
        now += pause
        snapshot = judge.observe(dict(view), set(writing), now, saved=told)
        if snapshot is None:
            continue
        assert not (writing - snapshot.logs) & snapshot.view.keys()
        assert all(view[path] == seen for path, seen in snapshot.view.items())
        told_again = told and not snapshot.changed
        assert told_again or any(
            path in snapshot.view or path not in view for path in snapshot.changed
        )
        # What is left out stays as it is in the previous checkpoint.
        assert all(
            snapshot.is_incomplete(path) for path in judge.taken if path not in snapshot.view
        )
