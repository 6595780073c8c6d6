"""Checkpoints of several nodes: each stores its own files, and the first commits for all."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from runctl.agent.reporting.progress import Progress
from runctl.agent.saving import gang_files, node_committer
from runctl.agent.saving.gang_files import PartMissingError
from runctl.beneath.changes import clear
from runctl.checkpoint.layouts import Scope
from runctl.checkpoint.restore import Restorer
from runctl.checkpoint.upload import SupersededError
from runctl.model.node import NodeStage
from tests.agent.gangs import Gang, write_torch_save
from tests.agent.machine import Cloud, wait_until
from tests.agent.savers import Committer, start_saver

RECORDS = {f"step-000000007/__{rank}_0.distcp" for rank in range(4)}
SAVE = RECORDS | {"step-000000007/.metadata"}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gang_files, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(gang_files, "APART", timedelta(0))
    monkeypatch.setattr(gang_files, "RESERVE", timedelta(0))


def later(work: object) -> threading.Thread:
    thread = threading.Thread(target=work)  # type: ignore[arg-type]
    thread.start()
    return thread


@pytest.fixture
def gang(cloud: Cloud, tmp_path: Path) -> Gang:
    """Two nodes with two ranks each."""
    return Gang(cloud, tmp_path, 2)


def test_a_checkpoint_has_the_records_of_all_nodes(gang: Gang) -> None:
    first, second = gang.nodes
    write_torch_save(first.folder, 7, 0, 1)
    write_torch_save(second.folder, 7, 2, 3)
    second.save()
    assert gang.cloud.run().newest is None, "only the first node commits"
    first.save()
    assert gang.files() == SAVE
    assert gang.cloud.run().step == 7
    newest = gang.cloud.run().newest
    assert newest is not None
    assert first.store.get_manifest(newest).metadata["nodes"] == [0, 1]


def test_a_node_reports_what_it_has_stored(gang: Gang) -> None:
    second = gang.nodes[1]
    write_torch_save(second.folder, 7, 2, 3)
    second.save()
    report = second.progress.snapshot().gang
    assert report is not None
    assert (report.files, report.part_step) == (2, 7)
    assert report.part == "runs/run-1/checkpoints/nodes/0001-001/000000001.json"
    assert second.store.get_manifest(report.part).step == 7


def test_the_first_node_waits_for_a_part_that_arrives_late(gang: Gang) -> None:
    first, second = gang.nodes
    write_torch_save(first.folder, 7, 0, 1)
    committing = later(first.save)
    write_torch_save(second.folder, 7, 2, 3)
    second.save()
    committing.join(60)
    assert gang.files() == SAVE


def test_a_save_without_the_part_of_a_node_is_not_committed(gang: Gang) -> None:
    first, second = gang.nodes
    write_torch_save(first.folder, 7, 0, 1)
    write_torch_save(second.folder, 7, 2, 3)
    second.count_files()
    with pytest.raises(PartMissingError) as caught:
        first.save(seconds=0.1)
    assert "step-000000007/__2_0.distcp" in str(caught.value)
    assert "node 1's part is missing" in str(caught.value)
    assert gang.cloud.run().newest is None
    second.save()
    first.save()
    assert gang.files() == SAVE


def test_a_save_that_waits_says_once_what_for(
    gang: Gang, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gang_files, "SLOW_AFTER", 0.05)
    caplog.set_level("INFO", gang_files.__name__)
    first, second = gang.nodes
    write_torch_save(first.folder, 7, 0, 1)
    write_torch_save(second.folder, 7, 2, 3)
    second.count_files()
    with pytest.raises(PartMissingError):
        first.save(seconds=0.5)
    (line,) = [record.message for record in caplog.records if "not whole yet" in record.message]
    assert "step-000000007/__2_0.distcp" in line


def test_a_save_that_lacks_a_part_does_not_hold_up_those_that_follow(
    gang: Gang, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = gang.nodes

    def save(step: int, *ranks: int) -> None:
        write_torch_save(first.folder, step, 0, 1)
        write_torch_save(second.folder, step, *ranks)
        second.save()
        first.save(seconds=5)

    with pytest.raises(PartMissingError, match=r"step-000000007/__2_0\.distcp"):
        save(7, 3)
    for step in (8, 9):
        save(step, 2, 3)
        assert gang.cloud.run().step == step
        assert {path.partition("/")[0] for path in gang.files()} == {
            f"step-{number:09d}" for number in range(8, step + 1)
        }
    assert caplog.text.count("a save is left out: step-000000007/__2_0.distcp") == 1
    # Its last part may still come.
    write_torch_save(second.folder, 7, 2)
    save(10, 2, 3)
    assert len(gang.files()) == 4 * len(SAVE)


def test_the_newest_save_is_not_left_out(gang: Gang) -> None:
    first, second = gang.nodes
    write_torch_save(first.folder, 50, 0, 1)
    write_torch_save(second.folder, 50, 2, 3)
    second.save()
    first.save()
    # A program that begins anew.
    write_torch_save(first.folder, 7, 0, 1)
    write_torch_save(second.folder, 7, 3)
    second.save()
    with pytest.raises(PartMissingError, match=r"step-000000007/__2_0\.distcp"):
        first.save(seconds=0.2)


def test_an_older_part_is_not_enough(gang: Gang) -> None:
    first, second = gang.nodes
    for step in (7, 8):
        (first.folder / f"step-{step}-rank0.pt").write_bytes(b"%d" % step)
        (second.folder / f"step-{step}-rank1.pt").write_bytes(b"1%d" % step)
        if step == 7:
            second.save()
            first.save()
    with pytest.raises(PartMissingError, match="node 1's part is missing"):
        first.save(seconds=0.1)
    assert gang.cloud.run().step == 7
    second.save()
    first.save()
    assert gang.cloud.run().step == 8
    assert "step-8-rank1.pt" in gang.files()


def test_files_of_a_node_that_is_ahead_are_left_out(gang: Gang) -> None:
    first, second = gang.nodes
    (first.folder / "step-7-rank0.pt").write_bytes(b"7")
    for step in (7, 8):
        (second.folder / f"step-{step}-rank1.pt").write_bytes(b"1%d" % step)
        second.save()
    first.save()
    assert gang.files() == {"step-7-rank0.pt", "step-7-rank1.pt"}


def test_with_one_name_for_each_save_the_part_of_the_same_step_is_taken(gang: Gang) -> None:
    first, second = gang.nodes
    (first.folder / "model.pt").write_bytes(b"7")
    for step in (7, 8):
        (second.folder / "rank1.pt").write_bytes(b"1%d" % step)
        second.save(step)
    first.save(7)
    manifest = Restorer(first.store, first.place / "in").fetch(str(gang.cloud.run().newest))
    target = first.place / "restored"
    Restorer(first.store, first.place / "in2").fetch(manifest.key)
    restorer = Restorer(first.store, first.place / "in3")
    restorer.put_in_place(restorer.fetch(manifest.key).manifest, target)
    assert (target / "rank1.pt").read_bytes() == b"17"


def test_the_lowest_rank_wins_where_several_nodes_have_a_path(gang: Gang) -> None:
    first, second = gang.nodes
    for node in (second, first):
        (node.folder / "step-7.pt").write_bytes(b"%d" % node.rank)
        (node.folder / f"step-7-rng{node.rank}.pt").write_bytes(b"%d" % node.rank)
        os.link(node.folder / "step-7.pt", node.folder / f"best-of-{node.rank}.pt")
        node.save()
    second.restore()
    assert (second.folder / "step-7.pt").read_bytes() == b"0"
    assert (second.folder / "best-of-1.pt").read_bytes() == b"1"
    assert (second.folder / "step-7-rng1.pt").read_bytes() == b"1"


def test_a_node_whose_folder_is_empty_stores_nothing(gang: Gang) -> None:
    first, second = gang.nodes
    (first.folder / "step-7.pt").write_bytes(b"7")
    second.save()
    first.save()
    assert gang.files() == {"step-7.pt"}
    assert first.store.node_manifest_keys() == []
    gang.repair()  # now the second node's folder has what was restored
    second.save()
    assert first.store.node_manifest_keys() == []


def test_the_first_save_waits_until_each_node_says_whether_it_has_files(gang: Gang) -> None:
    first, second = gang.nodes
    gang.heard = False
    (first.folder / "step-7-rank0.pt").write_bytes(b"7")
    with pytest.raises(PartMissingError, match="node 1 has not said"):
        first.save(seconds=0.1)
    gang.heard = True
    first.save()
    gang.heard = False  # the heartbeat of before counts for later saves
    (first.folder / "step-8-rank0.pt").write_bytes(b"8")
    first.save()
    assert gang.cloud.run().step == 8
    assert second.rank == 1


def test_nothing_is_waited_for_once_a_node_is_lost(gang: Gang) -> None:
    first, second = gang.nodes
    write_torch_save(first.folder, 7, 0, 1)
    write_torch_save(second.folder, 7, 2, 3)
    second.count_files()
    gang.lost.add(1)
    with pytest.raises(PartMissingError, match="node 1's part is missing"):
        first.save(seconds=3600)


def test_an_older_part_of_a_lost_node_is_not_enough(gang: Gang) -> None:
    first, second = gang.nodes
    (first.folder / "step-8-rank0.pt").write_bytes(b"8")
    (second.folder / "step-7-rank1.pt").write_bytes(b"7")
    second.save()
    gang.lost.add(1)
    with pytest.raises(PartMissingError, match="node 1's part is missing"):
        first.save(seconds=3600)


def test_the_part_of_a_node_that_is_gone_counts_if_it_is_stored(gang: Gang) -> None:
    first, second = gang.nodes
    write_torch_save(first.folder, 7, 0, 1)
    write_torch_save(second.folder, 7, 2, 3)
    second.save()
    second.stage = NodeStage.GONE
    first.save()
    assert gang.files() == SAVE


def test_the_last_save_takes_the_last_part_of_a_node_that_has_ended(gang: Gang) -> None:
    first, second = gang.nodes
    (first.folder / "step-8-rank0.pt").write_bytes(b"8")
    (second.folder / "step-7-rank1.pt").write_bytes(b"7")  # it saves every seventh step
    second.save()
    second.end()
    first.save(seconds=3600)
    assert gang.cloud.run().step == 8


def test_a_record_that_a_node_has_removed_comes_from_the_checkpoint_before(gang: Gang) -> None:
    first, second = gang.nodes
    write_torch_save(first.folder, 7, 0, 1)
    record = write_torch_save(second.folder, 7, 2, 3)
    second.save()
    first.save()
    for path in (*record.iterdir(), record):
        path.rmdir() if path.is_dir() else path.unlink()
    write_torch_save(first.folder, 8, 0, 1)
    write_torch_save(second.folder, 8, 2, 3)
    for _ in range(4):  # its earlier manifests are no longer read
        second.save()
    first.save()
    assert gang.files() >= SAVE
    assert len(gang.files()) == 10


def test_saves_that_the_first_node_has_removed_do_not_return(gang: Gang) -> None:
    first, second = gang.nodes
    for step in (7, 8):
        write_torch_save(second.folder, step, 2, 3)
        write_torch_save(first.folder, step, 0, 1)
    for path in (first.folder / "step-000000007").iterdir():
        path.unlink()
    (first.folder / "step-000000007").rmdir()
    second.save()
    first.save()
    assert {path.split("/")[0] for path in gang.files()} == {"step-000000008"}


def test_every_node_restores_the_whole_checkpoint_and_fetches_what_it_lacks(gang: Gang) -> None:
    first, second = gang.nodes
    for node in gang.nodes:
        write_torch_save(node.folder, 7, 2 * node.rank, 2 * node.rank + 1)
        (node.folder / f"step-000000007/of-{node.rank}.bin").write_bytes(os.urandom(300 * 1024))
    second.save()
    first.save()
    gang.repair()
    for node in gang.nodes:
        found = {path.name for path in (node.folder / "step-000000007").iterdir()}
        assert {"of-0.bin", "of-1.bin", ".metadata", "__3_0.distcp"} <= found
        assert 300 * 1024 <= node.fetched_bytes < 400 * 1024


def test_the_next_attempt_saves_only_what_is_new_on_a_node(gang: Gang) -> None:
    first, second = gang.nodes
    for step in (7, 8):
        write_torch_save(first.folder, step, 0, 1)
        write_torch_save(second.folder, step, 2, 3)
        second.save()
        first.save()
        if step == 7:
            gang.repair()
    (key,) = [key for key in first.store.node_manifest_keys() if "/0002-001/" in key]
    stored = {entry.path for entry in first.store.get_manifest(key).entries}
    assert stored == {
        "step-000000008",
        "step-000000008/__2_0.distcp",
        "step-000000008/__3_0.distcp",
    }
    assert len(gang.files()) == 10


def test_old_parts_go_and_those_that_are_needed_stay(cloud: Cloud, tmp_path: Path) -> None:
    gang = Gang(cloud, tmp_path, 2, keep_last=1)
    first, second = gang.nodes
    for step in range(1, 7):
        for node in gang.nodes:
            for old in node.folder.glob("step-*"):
                old.unlink()
            content = b"%d of node %d" % (step, node.rank)
            (node.folder / f"step-{step}-rank{node.rank}.pt").write_bytes(content)
        second.save()
        first.save()
        first.committer.remove_old()
    assert len(first.store.manifest_keys()) == 1
    numbers = [re.findall(r"\d+", key)[-1] for key in first.store.node_manifest_keys()]
    assert numbers == ["000000004", "000000005", "000000006"]
    digests = set.union(
        *(
            first.store.get_manifest(key).digests
            for key in (*first.store.manifest_keys(), *first.store.node_manifest_keys())
        )
    )
    assert {part.sha256 for part in first.store.parts()} == digests
    gang.repair()
    (first.folder / "step-7-rank0.pt").write_bytes(b"7")
    (second.folder / "step-7-rank1.pt").write_bytes(b"17")
    second.save()
    first.save()
    first.committer.remove_old()
    assert all("/0002-" in key for key in first.store.node_manifest_keys())
    assert Restorer(first.store, tmp_path / "in").fetch(str(cloud.run().newest)).manifest.step == 7


def test_what_a_node_has_stored_for_the_next_save_survives_the_removal(
    cloud: Cloud, tmp_path: Path
) -> None:
    gang = Gang(cloud, tmp_path, 2, keep_last=1)
    first, second = gang.nodes
    (first.folder / "step-1-rank0.pt").write_bytes(b"1")
    (second.folder / "step-1-rank1.pt").write_bytes(b"11")
    second.save()
    first.save()
    (second.folder / "step-2-rank1.pt").write_bytes(b"12")
    second.save()  # before the first node has saved step 2
    (first.folder / "log.csv").write_bytes(b"1")
    first.save(1)
    first.committer.remove_old()
    (first.folder / "step-2-rank0.pt").write_bytes(b"2")
    first.save()
    assert "step-2-rank1.pt" in gang.files()
    Restorer(first.store, tmp_path / "in").fetch(str(cloud.run().newest))


def test_a_part_that_has_vanished_is_not_committed(gang: Gang) -> None:
    first, second = gang.nodes
    (first.folder / "step-7-rank0.pt").write_bytes(b"7")
    (second.folder / "step-7-rank1.pt").write_bytes(os.urandom(300 * 1024))
    second.save()
    (key,) = first.store.node_manifest_keys()
    first.store.delete_parts(first.store.get_manifest(key).digests)
    with pytest.raises(PartMissingError, match=r"a part of step-7-rank1\.pt is not stored"):
        first.save(seconds=0.1)
    assert gang.cloud.run().newest is None


def test_a_node_whose_agent_restarts_goes_on_counting(gang: Gang) -> None:
    first, second = gang.nodes
    (second.folder / "step-7-rank1.pt").write_bytes(b"7")
    second.save()
    (second.folder / "step-7-rank1.pt").unlink()
    second.begin(None)
    (second.folder / "step-8-rank1.pt").write_bytes(b"8")
    second.save()
    (first.folder / "step-8-rank0.pt").write_bytes(b"8")
    first.save()
    assert len(first.store.node_manifest_keys()) == 2
    assert gang.files() == {"step-8-rank0.pt", "step-8-rank1.pt"}


def test_numbers_of_ranks_in_names_are_not_steps(gang: Gang) -> None:
    for node in gang.nodes:
        (node.folder / f"state_{node.rank}.pt").write_bytes(b"%d" % node.rank)
        (node.folder / f"shard-{node.rank}").mkdir()
        (node.folder / f"shard-{node.rank}/optimizer.bin").write_bytes(b"%d" % node.rank)
    gang.nodes[1].save()
    gang.nodes[0].save()
    assert gang.files() == {
        "state_0.pt",
        "state_1.pt",
        "shard-0/optimizer.bin",
        "shard-1/optimizer.bin",
    }


class KilledError(BaseException):
    """The agent was killed here."""


@pytest.mark.parametrize("point", ["save.parts_stored", "save.node_manifest_stored"])
def test_a_node_killed_in_a_save_repeats_it(
    gang: Gang, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    first, second = gang.nodes
    write_torch_save(first.folder, 7, 0, 1)
    write_torch_save(second.folder, 7, 2, 3)

    def reach(passed: str) -> None:
        if passed == point:
            raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(node_committer, "reach", reach)
        with pytest.raises(KilledError):
            second.save()
    if point == "save.parts_stored":
        with pytest.raises(PartMissingError):
            first.save(seconds=0.1)
    clear(second.folder)  # as without a checkpoint; its program begins again
    second.begin(None)
    write_torch_save(second.folder, 7, 2, 3)
    second.save()
    first.save()
    assert gang.files() == SAVE


def test_a_newer_snapshot_ends_the_wait_for_a_part(gang: Gang) -> None:
    first, second = gang.nodes
    write_torch_save(first.folder, 7, 0, 1)
    write_torch_save(second.folder, 7, 2, 3)
    second.count_files()
    first.superseded.set()
    with pytest.raises(SupersededError):
        first.save(seconds=3600)


def test_a_save_without_a_part_is_reported_and_tried_again(tmp_path: Path) -> None:
    committer, progress = Committer(), Progress()
    committer.missing = 1
    saver = start_saver(tmp_path, committer, tmp_path / "pins", progress)
    (tmp_path / "checkpoint/step-1.bin").write_bytes(b"one")
    wait_until(lambda: "node 1's part is missing" in str(progress.snapshot().warning))
    assert committer.done.wait(60)
    saver.close()
    assert committer.committed == [{"step-1.bin": b"one"}]


def test_a_last_save_without_a_part_is_not_saved(tmp_path: Path) -> None:
    committer, progress = Committer(), Progress()
    committer.missing = 1000
    saver = start_saver(tmp_path, committer, tmp_path / "pins", progress)
    (tmp_path / "checkpoint/step-1.bin").write_bytes(b"one")
    assert not saver.finish(until=time.monotonic() + 60, torn=frozenset(), abrupt=False)
    assert "node 1's part is missing" in str(progress.snapshot().warning)


def test_a_node_says_how_many_files_its_ranks_have_written(tmp_path: Path) -> None:
    progress = Progress()
    saver = start_saver(tmp_path, Committer(), tmp_path / "pins", progress, scope=Scope.OTHER_NODE)
    write_torch_save(tmp_path / "checkpoint", 7, 2, 3)

    def files() -> int:
        report = progress.snapshot().gang
        return 0 if report is None else report.files

    wait_until(lambda: files() == 2)
    saver.close()


def test_what_a_node_was_restored_with_takes_no_time_of_its_last_upload(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"

    class Measuring(Committer):
        def expected_time(self, size: int) -> timedelta:
            return timedelta(seconds=size)

    watched = []
    for scope in (Scope.FIRST_NODE, Scope.OTHER_NODE):
        folder.mkdir()
        (folder / "step-7.pt").write_bytes(b"restored")
        folder.rename(tmp_path / "restored")
        saver = start_saver(
            tmp_path,
            Measuring(),
            tmp_path / "pins",
            Progress(),
            scope=scope,
            restored=tmp_path / "restored",
        )
        (folder / "step-8.pt").write_bytes(b"8")
        watched.append(saver.expected_upload_time().total_seconds())
        saver.close()
        shutil.rmtree(folder)
    assert watched == [9, 1]
