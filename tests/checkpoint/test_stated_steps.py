"""The step of a save according to its small files, as far as they agree with the rest."""

from __future__ import annotations

import json
import math

import pytest

from runctl.checkpoint.settling import FileState, FolderState
from runctl.checkpoint.stated_steps import MAX_READ_BYTES, StepJudge, stated_step

SECOND = 1_000_000_000
HF_HEAD = '{\n  "best_metric": null,\n  "epoch": 1.5,\n  "global_step": 1500,\n  "log_history": [\n'


class Folder:
    """A checkpoint folder in memory, with a clock."""

    def __init__(self) -> None:
        self.judge = StepJudge()
        self.content: dict[str, bytes] = {}
        self.view: FolderState = {}
        self.step: int | None = None
        self.reads: list[tuple[str, int]] = []

    def read(self, path: str, offset: int, size: int) -> bytes:
        self.reads.append((path, size))
        return self.content[path][offset : offset + size]

    def save(self, at: float, *gone: str, **files: bytes) -> int | None:
        """Write files, whose names have `__` for a dot and `_S_` for a slash, and judge them."""
        held = dict(self.view)
        names = {name.replace("_S_", "/").replace("__", "."): files[name] for name in files}
        for path in gone:
            del self.view[path]
        for number, (path, content) in enumerate(names.items()):
            self.content[path] = content
            when = int(at * SECOND) + number
            self.view[path] = FileState("file", 0o644, when, len(content), (1, len(self.reads)))
        judged = self.judge.judge(
            self.view, (*names, *gone), held=held, current=self.step, read=self.read
        )
        self.step = judged.step
        return self.step


@pytest.fixture
def folder() -> Folder:
    return Folder()


def says(**document: object) -> bytes:
    return json.dumps(document).encode()


def test_json_next_to_a_file_without_a_number_states_its_step(folder: Folder) -> None:
    assert folder.save(1, model__pt=b"1", state__json=says(step=7, epoch=1)) == 7
    assert folder.save(9, model__pt=b"2", state__json=says(step=14)) == 14


def test_json_that_is_the_whole_save_states_its_step(folder: Folder) -> None:
    assert folder.save(1, config__json=says(step=1000)) is None
    assert folder.save(1, state__json=says(step=7)) == 7
    assert folder.save(2, state__json=says(step=8)) == 8


def test_json_that_changes_without_the_save_never_states_its_step(folder: Folder) -> None:
    assert folder.save(1, model__pt=b"1", progress__json=says(step=7)) == 7
    assert folder.save(2, progress__json=says(step=8)) is None
    assert folder.save(9, model__pt=b"2", progress__json=says(step=15)) is None


def test_json_seen_a_moment_after_its_save_states_its_step(folder: Folder) -> None:
    assert folder.save(1, model__pt=b"1", state__json=says(step=7)) == 7
    assert folder.save(9, model__pt=b"2") is None
    assert folder.save(10, state__json=says(step=14)) == 14
    assert folder.save(11, state__json=says(step=15)) is None


def test_json_next_to_numbered_saves_never_overrides_them(folder: Folder) -> None:
    assert folder.save(1, step_100__pt=b"1") == 100
    assert folder.save(2, progress__json=says(step=101)) == 100


def test_json_of_another_time_does_not_state_the_step(folder: Folder) -> None:
    held = says(step=7)
    assert folder.save(1, state__json=held) == 7
    folder.view["state.json"] = FileState("file", 0o644, 30 * SECOND, len(held))
    assert folder.save(60, model__pt=b"2") is None


def test_name_wins_over_a_json_that_disagrees(folder: Folder) -> None:
    assert folder.save(1, step_12__pt=b"1", state__json=says(step=14)) == 12


def test_hugging_face_state_turns_an_epoch_into_a_step_and_is_read_in_part(folder: Folder) -> None:
    state = (HF_HEAD + "x" * 2 * MAX_READ_BYTES).encode()
    assert folder.save(1, epoch_3_S_a__bin=b"1", epoch_3_S_trainer_state__json=state) == 1500
    assert sum(size for _, size in folder.reads) <= MAX_READ_BYTES


def test_state_without_a_numbered_folder_states_its_step(folder: Folder) -> None:
    assert folder.save(1, out_S_a__bin=b"1", out_S_trainer_state__json=HF_HEAD.encode()) == 1500


@pytest.mark.parametrize(
    ("name", "content", "step"),
    [
        ("latest_checkpointed_iteration__txt", b"12\n", 12),
        ("latest_checkpointed_iteration__txt", b"14", 14),
        ("latest_checkpointed_iteration__txt", b"release", 14),
        ("latest_checkpointed_iteration__txt", b"9999", 14),  # of a save that does not exist
    ],
)
def test_tracker_holds_the_step_back_as_long_as_it_names_an_older_save(
    folder: Folder, name: str, content: bytes, step: int
) -> None:
    files = {name: content, "iter_0000012_S_a__pt": b"1", "iter_0000014_S_a__pt": b"1"}
    assert folder.save(1, **files) == step


def test_latest_of_deepspeed_is_a_tracker(folder: Folder) -> None:
    files = {"latest": b"global_step12", "global_step12_S_a__pt": b"", "global_step14_S_a__pt": b""}
    assert folder.save(1, **files) == 12


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[7]",
        b'"7"',
        b"[" * 100_000,
        says(step="7"),
        says(step=True),
        says(step=-1),
        says(step=1.5),
        says(step=math.inf),
        says(step=10**13),
        says(other=7),
    ],
)
def test_json_that_states_nothing_is_not_an_error(content: bytes) -> None:
    assert stated_step("a.json", len(content), lambda *_: content) is None


def test_large_json_is_not_read() -> None:
    def read(*_: object) -> bytes:
        raise AssertionError("read")

    assert stated_step("a.json", MAX_READ_BYTES + 1, read) is None


def test_save_without_a_number_keeps_the_step_whose_file_still_exists(folder: Folder) -> None:
    assert folder.save(1, checkpoint_1000__pt=b"1") == 1000
    assert folder.save(5, best__pt=b"1") == 1000
    assert folder.save(9, run__log=b"1") == 1000
    assert folder.save(9, "checkpoint_1000.pt", best__pt=b"2") is None


def test_epochs_are_ignored_if_the_folder_counts_steps(folder: Folder) -> None:
    assert folder.save(1, step_500__pt=b"1") == 500
    assert folder.save(2, epoch_1__pt=b"1") == 500
    assert folder.save(3, step_1000__pt=b"1") == 1000


def test_lower_step_is_returned_unchanged(folder: Folder) -> None:
    assert folder.save(1, step_150__ckpt=b"1") == 150
    assert folder.save(2, step_10__ckpt=b"1") == 10
