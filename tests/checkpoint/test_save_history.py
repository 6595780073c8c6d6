"""Which saves are kept, what a snapshot adds, and warnings about attempts that start over."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.checkpoint.restore import Fetched
from runctl.checkpoint.resumption import new_folder, not_resumed
from runctl.checkpoint.save_history import SaveHistory
from runctl.checkpoint.settling import FileState, FolderState, Snapshot
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry
from runctl.model.request import RunRequest
from runctl.model.run import Run
from runctl.policy.retention import StoredSave, choose_kept

BEGIN = datetime(2026, 11, 28, tzinfo=timezone.utc)


class Attempt:
    """An attempt that saves, in memory."""

    def __init__(
        self,
        number: int = 1,
        *,
        keep: int = 3,
        before: Attempt | None = None,
        suspects: frozenset[str] = frozenset(),
    ) -> None:
        self.number = number
        self.content: dict[str, bytes] = {}
        self.manifests: dict[str, Manifest] = {}
        self.warnings: list[str] = []
        self.inodes = itertools.count(1)
        self.seen: FolderState = {}
        run = Run(
            run_id="r", request=RunRequest(), started_at=BEGIN, execution="r", execution_arn="a"
        )
        if before is not None:
            self.manifests, self.content = before.manifests, dict(before.content)
            self.seen = dict(before.seen)
            newest = before.history.kept[0]
            manifest = self.manifests[newest]
            best = max(saved.step for saved in self.manifests.values() if saved.step is not None)
            run = replace(run, save=manifest.save, best_step=best, suspects=suspects)
        self.history = SaveHistory(run, attempt=number, keep_last=keep)
        if before is not None:
            self.history.begin_from(Fetched(newest, manifest), self.seen)

    def read(self, path: str, offset: int, size: int) -> bytes:
        return self.content[path][offset : offset + size]

    def save(self, *gone: str, told: int | None = None, **files: bytes) -> int | None:
        names = {name.replace("_S_", "/").replace("__", "."): files[name] for name in files}
        for path in gone:
            self.seen.pop(path)
        for path, content in names.items():
            self.content[path] = content
            inode = next(self.inodes)
            self.seen[path] = FileState("file", 0o644, inode, len(content), (1, inode))
        snapshot = Snapshot(dict(self.seen), (*names, *gone))
        judged = self.history.judge(snapshot, told, self.read)
        self.progressed = self.history.is_progress(judged)
        save = self.history.next_save
        manifest = Manifest(
            run_id="r",
            step=judged.step,
            save=save,
            attempt=self.number,
            taken_at="",
            entries=tuple(Entry(path=path, kind="file", mode=0, mtime_ns=0) for path in self.seen),
            metadata=self.history.metadata_of(judged),
        )
        key = f"s{save:09d}-{self.number:04d}.json"
        self.manifests[key] = manifest
        if said := self.history.add(key, manifest, snapshot, judged, self.read):
            self.warnings.append(said)
        return judged.step

    def append(self, **files: bytes) -> int | None:
        """Append to files, which keep their inodes."""
        names = {name.replace("__", "."): files[name] for name in files}
        self.inodes = itertools.chain(
            [self.seen[path].inode[1] for path in names], itertools.count(10_000)
        )
        return self.save(
            **{
                name: self.content[path] + text
                for name, (path, text) in zip(files, names.items(), strict=True)
            }
        )

    @property
    def kept(self) -> list[int | None]:
        """The steps of the saves that are kept, each reachable from the newest."""
        keys = self.history.kept
        previous = self.manifests[keys[0]].metadata["previous"]
        assert previous == keys[1:] or (len(keys) == 1 and len(previous) == 1)
        return [self.manifests[key].step for key in keys]

    @property
    def saves(self) -> list[int]:
        return [self.manifests[key].save for key in self.history.kept]


def test_the_last_saves_are_kept() -> None:
    attempt = Attempt()
    for step in range(10, 60, 10):
        attempt.save(**{f"step_{step}__pt": b"1"})
    assert attempt.kept == [50, 40, 30]


def test_snapshots_of_a_growing_log_replace_each_other() -> None:
    attempt = Attempt()
    log = b""
    for epoch in (1, 2, 3):
        attempt.save(**{f"epoch_{epoch}__pt": b"%d" % epoch})
        for _ in range(3):
            log += b"a line\n"
            assert attempt.save(run__log=log) == epoch
    assert attempt.kept == [3, 2, 1]
    assert attempt.saves == [12, 8, 4]


def test_file_that_is_only_appended_to_is_a_log_whatever_its_name() -> None:
    attempt = Attempt()
    history = b"x" * 9000
    attempt.save(model__pt=b"1", history=history)
    for _ in range(4):
        history += b"y" * 3000
        attempt.save(history=history)
    assert len(attempt.saves) == 1


def test_file_that_only_grows_is_progress_if_there_is_nothing_else() -> None:
    attempt = Attempt()
    for length in (1, 2, 3):
        attempt.save(results__jsonl=b"{}\n" * length)
        assert attempt.progressed
    assert len(attempt.saves) == 1


def test_log_beside_a_save_with_a_stated_step_does_not_hide_the_step() -> None:
    attempt = Attempt()
    assert attempt.save(model__pt=b"1", state__json=b'{"step": 7}', history=b"a") == 7
    assert attempt.save(history=b"aa") == 7
    assert not attempt.progressed
    assert attempt.save(model__pt=b"2") is None


def test_log_that_grows_first_is_not_progress_of_a_program_that_starts_over() -> None:
    first = Attempt()
    first.save(step_150__ckpt=b"1", log__txt=b"one\n")
    second = Attempt(2, before=first)
    second.append(log__txt=b"two\n")
    assert not second.progressed
    second.save(step_10__ckpt=b"1")
    assert not second.progressed


def test_file_that_is_rewritten_and_longer_is_a_save() -> None:
    attempt = Attempt()
    for turn in range(1, 6):
        attempt.save(state__pkl=b"[" + b"1," * turn + b"]")
    assert attempt.saves == [5, 4, 3]


def test_snapshots_of_the_same_half_written_folder_replace_each_other() -> None:
    attempt = Attempt()
    attempt.save(ckpt_1_S_a=b"1", ckpt_1_S_b=b"1")
    for name in ("a", "b", "c", "d"):
        attempt.save(**{f"ckpt_2_S_{name}": b"2"})
    assert attempt.kept == [2, 1]


def test_rewritten_saves_of_one_step_count_separately() -> None:
    attempt = Attempt()
    for turn in range(6):
        attempt.save(state=b"%d" % turn, tower_2=b"%d" % turn)
    assert attempt.kept == [None, None, None]
    assert attempt.saves == [6, 5, 4]


def test_program_that_starts_over_does_not_lose_the_step_it_was_given() -> None:
    first = Attempt()
    for step in (130, 140, 150):
        first.save(**{f"step_{step}__ckpt": b"1"})
    second = Attempt(2, before=first)
    for step in (10, 20, 30, 40):
        second.save(**{f"step_{step}__ckpt": b"1"})
        assert not second.progressed
    assert second.kept == [40, 30, 150]
    (warning,) = second.warnings
    assert "attempt 2 was given step 150 but saved step 10: it did not resume" in warning
    assert "RUNCTL_CHECKPOINT_DIR" in warning
    third = Attempt(3, before=second)
    for step in (10, 20, 30):
        third.save(**{f"step_{step}__ckpt": b"1"})
    assert third.kept == [30, 40, 150]  # 40 is what it was given
    for step in (150, 160, 170, 180):
        third.save(**{f"step_{step}__ckpt": b"2"})
    assert third.progressed
    assert third.kept == [180, 170, 160]


def test_checkpoint_that_an_attempt_was_given_is_kept_until_it_is_passed() -> None:
    first = Attempt()
    first.save(step_150__ckpt=b"1")
    second = Attempt(2, before=first, keep=1)
    second.save(step_150__ckpt=b"2")
    assert second.kept == [150, 150]
    second.save(step_160__ckpt=b"2")
    assert second.kept == [160]
    assert second.warnings == []


def test_proven_checkpoint_is_kept_and_a_suspect_gives_way_to_good_ones() -> None:
    first = Attempt()
    for step in (1, 2, 3):
        first.save(**{f"step_{step}__pt": b"1"})
    proven, suspect, _ = sorted(first.history.kept)
    attempt = Attempt(2, before=first, suspects=frozenset({suspect}))
    attempt.history.note_proven(proven)
    attempt.save(step_4__pt=b"1")
    assert attempt.kept == [4, 3, 1]
    attempt.save(step_5__pt=b"1")
    attempt.save(step_6__pt=b"1")
    assert attempt.kept == [6, 5, 1]


def test_step_from_the_helper_counts_whatever_the_files_say() -> None:
    attempt = Attempt()
    assert attempt.save(step_7__pt=b"1", told=12) == 12
    assert attempt.save(run__log=b"1", told=12) == 12


@given(
    steps=st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=9),
    keep=st.integers(1, 5),
    data=st.data(),
)
def test_retention_keeps_the_newest_and_prefers_good_ones(steps, keep, data) -> None:
    saves = [StoredSave(str(at), step) for at, step in enumerate(steps)]
    keys = [save.key for save in saves]
    suspects = data.draw(st.sets(st.sampled_from(keys[1:] or ["none"])))
    protected = data.draw(st.sets(st.sampled_from(keys), max_size=2))
    kept = choose_kept(saves, keep=keep, protected=protected, suspects=suspects)
    assert kept[0] == keys[0]
    assert kept == sorted(kept, key=keys.index)
    good = set(keys) - suspects
    assert protected & good <= set(kept)
    assert len(kept) >= min(keep, len(keys))
    assert len(kept) <= max(keep, len(protected & good) + 2)
    if suspects & set(kept):
        assert good <= set(kept)
    known = [save.step for save in saves if save.step is not None and save.key in good]
    if known:
        assert max(known) in {save.step for save in saves if save.key in kept}


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ("outputs/2026-11-28/18-20-45/last.pt", "outputs/2026-11-28/18-31-02/last.pt"),
        ("2026-11-28/18-20-45/last.txt", "2026-11-29/09-31-02/last.txt"),
        ("run-20261128_182045/m.pt", "run-20261128_183045/m.pt"),
        (
            "lightning_logs/version_0/checkpoints/a.ckpt",
            "lightning_logs/version_1/checkpoints/a.ckpt",
        ),
        ("project/ab12cd34/m.pt", "project/zq83kd0p/m.pt"),
        ("runs/train/weights/last.pt", "runs/train2/weights/last.pt"),
        ("1795890000/m.pt", "1795890099/m.pt"),
        ("Nov28_18-20-45_host/m.pt", "Nov28_19-20-45_host/m.pt"),
    ],
)
def test_new_folder_next_to_the_given_one_causes_a_warning(given: str, changed: str) -> None:
    warning = new_folder(2, given=[given], changed=[given, changed])
    assert "saves to the new folder " in warning
    assert "RUNCTL_CHECKPOINT_DIR" in warning


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        (["checkpoint-100/m.pt"], "checkpoint-200/m.pt"),
        (["global_step1000/m.pt"], "global_step1200/m.pt"),
        (["00001200/m.pt"], "00001300/m.pt"),
        (["epoch-0930/m.pt"], "epoch-0931/m.pt"),
        (["2026-11-28/18-20-45/last.pt"], "2026-11-28/18-20-45/other.pt"),
        (["2026-11-28/last.pt", "2026-11-27/last.pt"], "2026-11-29/last.pt"),
        (["a/Nov28_18-20-45_host/m.pt"], "a/Nov28_19-20-45_host/events.out.tfevents.1795890000.h"),
        ([], "2026-11-29/last.pt"),
    ],
)
def test_other_new_folders_cause_no_warning(given: list[str], changed: str) -> None:
    assert new_folder(2, given=given, changed=[changed]) == ""


def test_attempt_that_resumed_causes_no_warning() -> None:
    assert not_resumed(2, given=150, first=150) == ""
    assert not_resumed(2, given=None, first=1) == ""
    assert not_resumed(2, given=3, first=None) == ""


def test_new_folder_that_continues_the_steps_is_fine() -> None:
    first = Attempt()
    first.save(version_0_S_step_150__ckpt=b"1")
    second = Attempt(2, before=first)
    second.save(version_1_S_step_160__ckpt=b"1")
    assert second.warnings == []
    third = Attempt(2, before=first)
    third.save(version_1_S_last__ckpt=b"1")
    assert len(third.warnings) == 1
