"""Saves of torch.distributed.checkpoint: whole only with every record that `.metadata` names.

`torch_save` holds what torch 2.13 wrote on four ranks (Gloo): a DTensor sharded over all of them, a
tensor that every rank has, and a number.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from runctl.checkpoint.folder_state import scan_folder
from runctl.checkpoint.inspector import Inspector
from runctl.checkpoint.layouts import Scope
from runctl.checkpoint.restore import Restorer
from runctl.checkpoint.settling import Settling, Snapshot
from runctl.checkpoint.torch_records import named_records
from runctl.checkpoint.wholeness import Wholeness
from runctl.model.errors import DamagedCheckpointError
from tests.agent.machine import Cloud
from tests.checkpoint.test_checkpoints import Folder

SAVE = Path(__file__).parent / "torch_save"
RECORDS = frozenset(f"__{rank}_0.distcp" for rank in range(4))


def write(
    place: Path, step: int, ranks: tuple[int, ...] = (0, 1, 2, 3), *, last: bool = True
) -> Path:
    """Write the files of some ranks; that of the first includes what is written last."""
    folder = place / f"step-{step:09d}"
    folder.mkdir(parents=True, exist_ok=True)
    for rank in ranks:
        shutil.copy(SAVE / f"__{rank}_0.distcp", folder)
    if 0 in ranks and last:
        shutil.copy(SAVE / ".metadata", folder)
    return folder


def judge(folder: Path, settling: Settling | None = None) -> tuple[Snapshot | None, list[str]]:
    """Judge a folder after the end of its program."""
    settling = settling or Settling({}, wholeness=Wholeness(Inspector(folder)))
    snapshot = settling.final(scan_folder(folder), 100.0, torn=frozenset(), abrupt=False)
    return snapshot, settling.wholeness.reasons


@pytest.mark.parametrize("block", [1, 7, 100, 10_000])
def test_names_of_records_are_found_in_blocks_of_any_size(block: int) -> None:
    content = (SAVE / ".metadata").read_bytes()
    blocks = (content[at : at + block] for at in range(0, len(content), block))
    assert named_records(blocks) == RECORDS


def test_a_save_of_several_ranks_is_whole_with_all_records(tmp_path: Path) -> None:
    write(tmp_path, 7)
    snapshot, reasons = judge(tmp_path)
    assert snapshot is not None
    assert not snapshot.incomplete
    assert reasons == []


def test_a_save_without_the_record_of_a_rank_is_not_whole(tmp_path: Path) -> None:
    write(tmp_path, 7, (0, 1, 3))
    snapshot, reasons = judge(tmp_path)
    assert snapshot is None
    assert reasons == [
        "step-000000007/__2_0.distcp, which step-000000007/.metadata names, is missing"
    ]


def test_a_save_without_metadata_is_not_whole(tmp_path: Path) -> None:
    write(tmp_path, 7, last=False)
    assert judge(tmp_path)[0] is None


def test_an_incomplete_save_leaves_the_one_before_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, 7)
    settling = Settling({}, wholeness=Wholeness(Inspector(tmp_path)))
    judge(tmp_path, settling)
    write(tmp_path, 8, (0, 1, 2))
    (tmp_path / "log.csv").write_text("8")
    snapshot, _ = judge(tmp_path, settling)
    assert snapshot is not None
    assert snapshot.is_incomplete("step-000000008/.metadata")
    assert "step-000000007/__3_0.distcp" in snapshot.view


@pytest.mark.parametrize(("scope", "ranks"), [(Scope.FIRST_NODE, (0,)), (Scope.OTHER_NODE, (1,))])
def test_what_other_nodes_have_is_not_missing_on_a_node(
    tmp_path: Path, scope: Scope, ranks: tuple[int, ...]
) -> None:
    write(tmp_path, 7)  # restored: it has the files of all nodes
    given = scan_folder(tmp_path)
    wholeness = Wholeness(Inspector(tmp_path), scope=scope, given=given)
    settling = Settling(dict(given), wholeness=wholeness)
    write(tmp_path, 8, ranks)
    snapshot, reasons = judge(tmp_path, settling)
    assert reasons == []
    assert snapshot is not None
    assert not snapshot.incomplete


def test_the_first_node_waits_for_the_metadata_that_it_writes_itself(tmp_path: Path) -> None:
    write(tmp_path, 7, (0,), last=False)
    settling = Settling({}, wholeness=Wholeness(Inspector(tmp_path), scope=Scope.FIRST_NODE))
    assert judge(tmp_path, settling)[0] is None


def test_a_checkpoint_with_a_missing_record_falls_back_to_the_one_before(
    cloud: Cloud, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Folder(cloud, tmp_path / "machine")
    write(folder.path, 7)
    first = folder.save(7)
    (write(folder.path, 8) / "__1_0.distcp").unlink()  # as an older program committed it
    second = folder.save(8)
    fetched = Restorer(folder.store, tmp_path / "incoming").fetch(second)
    assert fetched.key == first
    assert "'step-000000008/__1_0.distcp', which .metadata names, is missing" in caplog.text


def test_a_checkpoint_whose_part_was_deleted_falls_back_and_names_the_file(
    cloud: Cloud, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Folder(cloud, tmp_path / "machine")
    write(folder.path, 7)
    first = folder.save(7)
    (write(folder.path, 8) / "extra.bin").write_bytes(os.urandom(300 * 1024))
    second = folder.save(8)
    folder.store.delete_parts(folder.manifest.digests - folder.store.get_manifest(first).digests)
    fetched = Restorer(folder.store, tmp_path / "incoming").fetch(second)
    assert fetched.key == first
    assert "cannot be fetched" in caplog.text
    assert "step-000000008/" in caplog.text


def test_an_older_save_may_lack_records(cloud: Cloud, tmp_path: Path) -> None:
    folder = Folder(cloud, tmp_path / "machine")
    (write(folder.path, 7) / "__1_0.distcp").unlink()
    write(folder.path, 8)
    key = folder.save(8)
    assert Restorer(folder.store, tmp_path / "incoming").fetch(key).key == key


def test_a_save_without_a_number_needs_its_records(cloud: Cloud, tmp_path: Path) -> None:
    folder = Folder(cloud, tmp_path / "machine")
    (write(folder.path, 7) / "__1_0.distcp").unlink()
    (folder.path / "step-000000007").rename(folder.path / "last")
    key = folder.save(8)
    with pytest.raises(DamagedCheckpointError, match=r"'last/__1_0\.distcp', which"):
        Restorer(folder.store, tmp_path / "incoming").fetch(key)
