"""The documents of --json contain what the version that recorded them printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from runctl.model.image import Image
from runctl.model.outcome import RunStatus
from runctl.model.request import RunRequest
from runctl.model.run import Run, summarize
from runctl.report.descriptions import image_text
from runctl.report.run_document import UnrecordedRun, document_of
from runctl.report.run_list import entry_of
from tests.report.sample import ATTEMPTS, NOW, RUN, TRACEBACK, VERSIONS

RECORDED = json.loads((Path(__file__).parent / "recorded" / "documents.json").read_text())
NEW = replace(RUN, newest=None, step=None, save=0, committed_at=None)
ENDED = replace(NEW, ended=RunStatus.FAILED, ended_at=NOW, reason=TRACEBACK)


def changes(recorded: Any, printed: Any, path: str = "") -> Iterator[str]:
    """Yield where a document differs from a recorded one; it may have more keys."""
    if isinstance(recorded, dict) and isinstance(printed, dict):
        for key in recorded:
            if key in printed:
                yield from changes(recorded[key], printed[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is missing"
    elif isinstance(recorded, list) and isinstance(printed, list):
        if len(recorded) != len(printed):
            yield f"{path} has {len(printed)} entries"
        for index, (expected, other) in enumerate(zip(recorded, printed, strict=False)):
            yield from changes(expected, other, f"{path}[{index}]")
    elif recorded != printed:
        yield f"{path} is {printed!r}, not {recorded!r}"


def test_documents_of_runs_keep_their_keys_and_values() -> None:
    printed = {
        "live": document_of(RUN, ATTEMPTS, VERSIONS, now=NOW).as_document(),
        "ended": document_of(ENDED, ATTEMPTS[:3], now=NOW).as_document(),
        "new": document_of(NEW, (), now=NOW).as_document(),
    }
    for name, document in printed.items():
        assert list(changes(RECORDED[name], json.loads(json.dumps(document)))) == []


def test_documents_of_a_list_keep_their_keys_and_values() -> None:
    def entry(run: Run, attempts: Any) -> dict[str, Any]:
        return entry_of(run, summarize(attempts)).as_document()

    printed = [entry(RUN, ATTEMPTS), entry(ENDED, ATTEMPTS[:3]), entry(RUN, ())]
    assert list(changes(RECORDED["list"], printed)) == []


def test_a_lost_or_changed_key_is_found() -> None:
    document = document_of(RUN, ATTEMPTS, VERSIONS, now=NOW).as_document()
    del document["attempts"][0]["pool"]
    document["step"] = 3
    assert list(changes(RECORDED["live"], document)) == [
        ".step is 3, not 450",
        ".attempts[0].pool is missing",
    ]


def test_document_of_a_run_that_is_not_recorded_has_what_is_known() -> None:
    started = UnrecordedRun(
        run_id="lm", status=RunStatus.PENDING, execution="lm-r2", execution_arn="arn"
    )
    assert started.as_document() == {
        "run_id": "lm",
        "execution": "lm-r2",
        "execution_arn": "arn",
        "status": "pending",
    }
    stopped = UnrecordedRun(run_id="lm", status=RunStatus.STOPPED)
    assert stopped.as_document() == {"run_id": "lm", "status": "stopped"}


def test_a_run_without_a_script_shows_its_image_and_the_command_of_that() -> None:
    image = Image(
        reference="registry.example.com/team/train@sha256:" + "a" * 64,
        digest="sha256:" + "a" * 64,
        platform="linux/arm64",
        size_bytes=1_250_000_000,
        command=("python", "-m", "train"),
    )
    request = RunRequest.from_stored({"docker": {"image": "registry.example.com/team/train:v1"}})

    run = document_of(replace(RUN, request=request, image=image), (), now=NOW)

    assert run.program == ("python", "-m", "train")
    assert run.as_document()["image"] == image.as_document()
    assert image_text(run.image) == f"{image.reference}, linux/arm64, 1.2 GB compressed"
    assert image_text(None) == ""
