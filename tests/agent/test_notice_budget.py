"""A last save that cannot fit into a notice causes a warning long before a notice."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from runctl.agent.reporting.progress import Progress
from runctl.agent.saving.committer import Committer
from runctl.agent.saving.save_events import SaveEvents
from runctl.checkpoint.upload import ASSUMED_BYTES_PER_SECOND
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry
from runctl.model.saving import Saving

MIB = 1024 * 1024


def manifest(mebibytes: int) -> Manifest:
    entry = Entry(path="a", kind="file", mode=0o644, mtime_ns=1, size_bytes=mebibytes * MIB)
    return Manifest(run_id="r", step=1, attempt=1, taken_at="", entries=(entry,))


def make_committer(tmp_path: Path, progress: Progress, *, may_be_interrupted: bool = True) -> Any:
    committer = Committer(
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        run_id="r",
        attempt=1,
        keep_last=3,
        may_be_interrupted=may_be_interrupted,
        saves=SaveEvents(tmp_path / "saved.jsonl"),
        progress=progress,
        is_fenced=lambda: False,
    )
    committer._uploader._bytes_per_second = 10.0 * MIB
    return committer


def warning(progress: Progress) -> str:
    return str(progress.snapshot().warning)


@pytest.mark.parametrize(("mebibytes", "fits"), [(1099, True), (1101, False)])
def test_save_that_does_not_fit_is_reported_with_its_numbers(
    tmp_path: Path, mebibytes: int, fits: bool
) -> None:
    progress = Progress()
    make_committer(tmp_path, progress)._note_budget(manifest(mebibytes))
    assert (warning(progress) == "") is fits
    assert fits or "1,101 MiB at 10 MiB/s need 110 s" in warning(progress)


def test_figures_of_a_last_save_are_reported_but_not_a_guessed_speed(
    tmp_path: Path,
) -> None:
    progress = Progress()
    committer = make_committer(tmp_path, progress)
    committer._note_budget(manifest(300))
    assert progress.snapshot().saving == Saving(
        size_bytes=300 * MIB,
        bytes_per_second=10.0 * MIB,
        last_save=timedelta(seconds=30),
        notice=timedelta(seconds=110),
    )
    committer._uploader._bytes_per_second = ASSUMED_BYTES_PER_SECOND
    committer._note_budget(manifest(300))
    assert progress.snapshot().saving.bytes_per_second is None


def test_time_of_the_save_itself_counts_too(tmp_path: Path) -> None:
    progress = Progress()
    committer = make_committer(tmp_path, progress)
    (tmp_path / "saved.jsonl").write_text('{"step": 1, "seconds": 30}\n')
    committer._saves.read()
    committer._note_budget(manifest(900))
    assert "does not fit into the notice" in warning(progress)


def test_budget_warning_stays_next_to_another_and_only_the_budget_removes_it(
    tmp_path: Path,
) -> None:
    progress = Progress()
    committer = make_committer(tmp_path, progress)
    committer._note_budget(manifest(2000))
    progress.warn("the disk is full", about="scan")
    assert "does not fit" in warning(progress)
    committer._note_budget(manifest(10))
    assert warning(progress) == "the disk is full"


def test_machine_that_cannot_be_interrupted_has_no_notice_budget(tmp_path: Path) -> None:
    progress = Progress()
    make_committer(tmp_path, progress, may_be_interrupted=False)._note_budget(manifest(5000))
    assert warning(progress) == ""
