"""Preparation on a full disk, and in a project whose checkpoint folder lies below a link."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import tarfile
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runctl.agent.instance.paths import Paths
from runctl.agent.prepare.dependencies import Declared
from runctl.agent.prepare.environment import Environments
from runctl.agent.prepare.inputs import InputStager
from runctl.agent.prepare.preparation import Preparation
from runctl.agent.prepare.prepared import Prepared
from runctl.agent.reporting.progress import Progress
from runctl.agent.signals.mailbox import Mailbox
from runctl.agent.signals.waiting import CancellableWait
from runctl.checkpoint.candidates import Trust
from runctl.checkpoint.restore import Fetched, Restorer
from runctl.model.checkpoint import Manifest
from runctl.model.declaration import Declaration
from runctl.model.errors import DamagedCheckpointError, RequestError
from runctl.model.request import RunRequest
from runctl.model.run import Run
from runctl.model.saving_options import CheckpointOptions
from tests.agent_settings import make_settings
from tests.beneath.swapping import CANARY, give_to_trainer, hide_canary, needs_root

NEWEST = "runs/r/checkpoints/manifests/s000000000007-0001.json"
RUN = Run(
    run_id="r",
    request=RunRequest.of(script="train.py"),
    started_at=datetime(2030, 1, 1, tzinfo=timezone.utc),
    execution="r",
    execution_arn="arn:r",
    newest=NEWEST,
)

NOTHING = Declared(project=Path(), declaration=Declaration(), fingerprint=b"")


@pytest.fixture
def preparation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preparation:
    """A preparation whose fetches all fail on a full disk, with a little in the incoming folder."""
    paths = Paths(tmp_path)
    paths.make()

    def fetch(_restorer: Restorer, _key: str, _trust: Trust, **_: object) -> None:
        incoming = paths.state / "incoming"
        incoming.mkdir(exist_ok=True)
        (incoming / "half").write_bytes(b"weights")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Restorer, "fetch", fetch)
    ledger: Any = SimpleNamespace(find_run=lambda _: RUN)
    settings = make_settings(tmp_path, run_id="r", attempt=2)
    return Preparation(
        ledger,
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        SimpleNamespace(partial_keys=list),  # type: ignore[arg-type]
        settings,
        inputs=None,  # type: ignore[arg-type]
        subjects=None,  # type: ignore[arg-type]
        environments=None,  # type: ignore[arg-type]
        vendor=tmp_path,
        progress=Progress(),
        wait=CancellableWait(Mailbox()),
    )


def test_prefetching_leaves_space_for_the_environment(
    preparation: Preparation, tmp_path: Path
) -> None:
    preparation.prefetch(RUN)
    preparation._prefetch.finish()
    assert not (Paths(tmp_path).state / "incoming").exists()


def test_nothing_is_prefetched_while_an_earlier_program_may_write_to_the_folder(
    preparation: Preparation, tmp_path: Path
) -> None:
    folder = Paths(tmp_path).checkpoint
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pt").write_bytes(b"of the attempt before")
    preparation.prefetch(RUN)
    assert not preparation._prefetch._begun


def test_checkpoint_that_does_not_fit_is_reported_at_once_and_frees_its_space(
    preparation: Preparation, tmp_path: Path
) -> None:
    request = RunRequest.of(script="train.py")
    prepared = Prepared(
        script="train.py", environment=tmp_path, checkpoint=Paths(tmp_path).checkpoint
    )
    with pytest.raises(RequestError, match="the instance's disk is full") as caught:
        preparation.restore(request, prepared)
    assert NEWEST in str(caught.value)
    assert "MiB are free" in str(caught.value)
    assert not (Paths(tmp_path).state / "incoming").exists()


@pytest.mark.parametrize(
    "failure",
    [
        RequestError("the environment cannot be created: [Errno 28] No space left on device"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_environment_without_space_is_built_once_the_prefetched_checkpoint_is_removed(
    preparation: Preparation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    incoming = Paths(tmp_path).state / "incoming"
    makes: list[bool] = []

    def make(_environments: Environments, _declared: Declared, **_how: bool) -> Path:
        makes.append(incoming.exists())
        if len(makes) == 1:
            with contextlib.suppress(FileExistsError):  # the prefetch may be removing it
                incoming.mkdir()  # as if it were fetched all the time
            raise failure
        return tmp_path

    monkeypatch.setattr(Environments, "prepare", make)
    preparation.prefetch(RUN)
    environments = preparation._environments
    assert preparation._with_room(lambda: environments.prepare(NOTHING)) == tmp_path
    assert len(makes) == 2
    assert not makes[1]


@pytest.mark.parametrize(
    ("failure", "prefetch"),
    [("there is no such package", True), ("[Errno 28] No space left on device", False)],
)
def test_environment_that_fails_for_another_reason_is_not_built_twice(
    preparation: Preparation, monkeypatch: pytest.MonkeyPatch, failure: str, prefetch: bool
) -> None:
    makes: list[Declared] = []

    def make(_environments: Environments, declared: Declared, **_how: bool) -> Path:
        makes.append(declared)
        raise RequestError(failure)

    monkeypatch.setattr(Environments, "prepare", make)
    if prefetch:
        preparation.prefetch(RUN)
    with pytest.raises(RequestError, match=r"such package|No space"):
        preparation._with_room(lambda: preparation._environments.prepare(NOTHING))
    assert len(makes) == 1


def test_other_disk_errors_are_left_to_another_try(
    preparation: Preparation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(_restorer: Restorer, _key: str, _trust: Trust, **_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Restorer, "fetch", fetch)
    prepared = Prepared(
        script="train.py", environment=tmp_path, checkpoint=Paths(tmp_path).checkpoint
    )
    with pytest.raises(OSError, match="Input/output"):
        preparation.restore(RunRequest.of(script="train.py"), prepared)


def test_code_and_inputs_that_met_a_prefetched_checkpoint_are_fetched_again_without_it(
    preparation: Preparation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    incoming = Paths(tmp_path).state / "incoming"
    asked: list[str] = []

    def have_no_room_at_first(what: str) -> None:
        asked.append(what)
        if asked.count(what) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        assert not incoming.exists()

    def fetch_code(*_: object) -> str:
        have_no_room_at_first("code")
        return "train.py"

    def make(*_: object, **__: object) -> Path:
        return tmp_path

    monkeypatch.setattr("runctl.agent.prepare.preparation.fetch_code", fetch_code)
    monkeypatch.setattr(Environments, "prepare", make)
    monkeypatch.setattr(InputStager, "stage", lambda *_: have_no_room_at_first("inputs"))
    (Paths(tmp_path).project).mkdir(parents=True, exist_ok=True)
    (Paths(tmp_path).project / "train.py").touch()
    preparation.prefetch(RUN)
    assert preparation.prepare(RunRequest.of(script="train.py")).script == "train.py"
    assert sorted(asked) == ["code", "code", "inputs", "inputs"]


def test_nothing_is_prefetched_any_more_once_it_has_taken_the_space_of_something_else(
    preparation: Preparation, tmp_path: Path
) -> None:
    failures = [OSError(errno.ENOSPC, "No space left on device")]

    def make() -> Path:
        # As when the ledger names another checkpoint in the meantime.
        preparation.prefetch(replace(RUN, newest=NEWEST.replace("7", "8")))
        if failures:
            raise failures.pop()
        return tmp_path

    preparation.prefetch(RUN)
    assert preparation._with_room(make) == tmp_path
    count = len(preparation._prefetch._begun)
    preparation.prefetch(replace(RUN, newest=NEWEST.replace("7", "9")))
    assert len(preparation._prefetch._begun) == count


def project_below_a_link(state: Path, target: Path) -> RunRequest:
    """Give the trainer a project in which `out` is a link; return a request that saves below it."""
    project = state / "project"
    project.mkdir(exist_ok=True)
    (project / "train.py").touch()
    archive = state / "code.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(project, arcname=".")
    (project / "out").symlink_to(target)
    give_to_trainer(project)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    return RunRequest.of(
        script="train.py",
        code=f"s3://b/code/{digest}.tar.gz",
        group="g",  # the archive is kept
        checkpoint=CheckpointOptions(dir="out/checkpoints"),
    )


@needs_root
@pytest.mark.parametrize("leads_out", [False, True])
def test_trainer_begins_anew_where_it_had_replaced_a_folder_by_a_link(
    preparation: Preparation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leads_out: bool
) -> None:
    def fetch(_restorer: Restorer, _key: str, _trust: Trust, **_: object) -> None:
        raise DamagedCheckpointError("no whole checkpoint is left")

    monkeypatch.setattr(Restorer, "fetch", fetch)
    state = Paths(tmp_path).state
    outside = tmp_path / "outside" if leads_out else state / "project/elsewhere"
    canary = hide_canary(outside / "checkpoints")
    request = project_below_a_link(state, outside)
    given = Fetched(NEWEST, Manifest(run_id="r", step=7, attempt=1, taken_at="", entries=()))
    folder = preparation.checkpoint_folder(request)
    prepared = Prepared(script="train.py", environment=tmp_path, checkpoint=folder, restored=given)
    found = preparation.restore_before(request, prepared, frozenset({NEWEST}))
    assert found is not None
    assert found.restored is None
    assert folder.is_dir()
    assert not folder.parent.is_symlink()
    assert list(folder.iterdir()) == []
    if leads_out:
        assert canary.read_bytes() == CANARY


@needs_root
def test_project_with_a_link_above_its_checkpoint_folder_is_refused(
    preparation: Preparation, tmp_path: Path
) -> None:
    """The agent follows no link that the program can change, so it would save nothing there."""
    state = Paths(tmp_path).state
    request = project_below_a_link(state, state / "project/elsewhere")
    folder = preparation.checkpoint_folder(request)
    prepared = Prepared(script="train.py", environment=tmp_path, checkpoint=folder)
    with pytest.raises(RequestError, match=r"/project/out is a link .*; make it a folder"):
        preparation.restore(request, prepared)
    assert not (state / "project/elsewhere").exists()
    (state / "project/elsewhere").mkdir()
    with pytest.raises(RequestError, match=r"/project/out is a link .*; make it a folder"):
        preparation.restore(request, prepared)
