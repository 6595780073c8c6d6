"""`runctl checkpoints`: list, verify, pull, push and prune."""

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from runctl.aws.checkpoints import CheckpointStore
from runctl.cli.commands.checkpoints import pruning
from runctl.model import identity
from runctl.model.outcome import OutcomeKind, RunStatus
from tests.attempts import report
from tests.cli.deployed import BUCKET, Deployed, now


@pytest.fixture
def over(deployed, runctl, tmp_path) -> Deployed:
    """A run that has ended, with checkpoints of the steps 1, 2 and 3 that share a file."""
    deployed.begin("lm")
    deployed.train("lm", 1)
    deployed.end_attempt("lm", 1, OutcomeKind.STOPPED)
    deployed.end("lm", RunStatus.STOPPED)
    for step in (1, 2, 3):
        folder = make_folder(tmp_path / f"made-{step}", step)
        assert runctl("checkpoints", "push", "lm", str(folder), "--step", str(step)).code == 0
    return deployed


def make_folder(folder: Path, step: int) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "shared.bin").write_bytes(b"shared" * 1000)
    (folder / "sub" / "own.bin").write_bytes(b"%d" % step * 1000)
    (folder / "sub" / "own.bin").chmod(0o640)
    os.utime(folder / "shared.bin", ns=(1_000_000_001, 1_000_000_001))
    (folder / "latest").symlink_to("sub/own.bin")
    return folder


def described(folder: Path) -> dict:
    return {
        str(path.relative_to(folder)): (
            path.is_symlink() and str(path.readlink()),
            path.is_file() and path.read_bytes(),
            path.lstat().st_mode,
            path.is_file() and path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
    }


def store_of(deployed: Deployed) -> CheckpointStore:
    return CheckpointStore(deployed.clients.get("s3"), bucket=BUCKET, run_id="lm")


def spoil(deployed: Deployed, step: int, body: bytes = b"other") -> str:
    """Damage the part that is unique to the checkpoint of `step`."""
    store = store_of(deployed)
    key = next(key for key in store.manifest_keys() if store.get_manifest(key).step == step)
    entry = next(found for found in store.get_manifest(key).entries if found.path == "sub/own.bin")
    part = identity.part_key("lm", entry.parts[0].sha256)
    deployed.clients.get("s3").put_object(Bucket=BUCKET, Key=part, Body=body)
    return key


def test_pushed_checkpoints_are_listed_newest_first_and_verified(over, runctl):
    done = runctl("checkpoints", "lm", "--verify", "--json")
    assert done.code == 0
    expected = [
        (checkpoint["step"], checkpoint["files"], checkpoint["is_newest"])
        for checkpoint in done.document["checkpoints"]
    ]
    assert expected == [(3, 2, True), (2, 2, False), (1, 2, False)]
    assert done.document["verified"]
    assert runctl("checkpoints", "lm", "--verify").stdout.count("whole") == 3
    assert runctl("checkpoints", "lm").stdout.count("whole") == 0


def test_global_options_may_precede_the_run(over, runctl):
    assert runctl("checkpoints", "--json", "lm").document["run_id"] == "lm"
    assert runctl("checkpoints", "list", "lm", "--json").document["run_id"] == "lm"


def test_newest_save_of_a_step_is_pulled_and_any_by_its_number(over, runctl, tmp_path):
    again = make_folder(tmp_path / "again", 7)
    assert runctl("checkpoints", "push", "lm", str(again), "--step", "2").code == 0
    listed = runctl("checkpoints", "lm", "--json").document["checkpoints"]
    assert [(checkpoint["save"], checkpoint["step"]) for checkpoint in listed] == [
        (4, 2),
        (3, 3),
        (2, 2),
        (1, 1),
    ]
    assert runctl("checkpoints", "pull", "lm", "2", str(tmp_path / "got")).code == 0
    assert described(tmp_path / "got") == described(again)
    done = runctl("checkpoints", "pull", "lm", "save:2", str(tmp_path / "second"), "--json")
    assert (done.document["step"], done.document["save"]) == (2, 2)
    assert described(tmp_path / "second") == described(tmp_path / "made-2")


def test_folder_that_names_no_step_is_a_save(over, runctl, tmp_path):
    folder = tmp_path / "2026-11-28"
    folder.mkdir()
    (folder / "model-acc-0.91.pt").write_bytes(b"x")
    done = runctl("checkpoints", "push", "lm", str(folder))
    assert "save 4 (1 B) is the newest checkpoint of lm" in done.stdout
    assert "checkpoint save 4, " in " ".join(runctl("status", "lm").stdout.split())
    (listed,) = runctl("list", "--json").document["runs"]
    assert (listed["step"], listed["save"]) == (None, 4)
    assert "save 4" in runctl("list").stdout
    assert "from the checkpoint of save 4" in runctl("resume", "lm", "--detach").stdout
    done = runctl("checkpoints", "pull", "lm", "4", str(tmp_path / "got"))
    assert (done.code, "no checkpoint of step 4; it has 1, 2, 3" in done.stderr) == (4, True)
    assert "saves without a known step: save:4" in " ".join(done.stderr.split())


def test_list_marks_proven_and_suspect_checkpoints_and_the_attempts_given_them(over, runctl):
    keys = store_of(over).manifest_keys()
    over.ledger.mark_proven("lm", 1, keys[2])
    over.ledger.mark_suspect("lm", 1, keys[1])
    report(over.ledger, "lm", 1, phase="done", now=now(), resume_step=1, resume_save=1)
    first, second, third = runctl("checkpoints", "lm", "--json").document["checkpoints"]
    assert [checkpoint["is_proven"] for checkpoint in (first, second, third)] == [
        False,
        False,
        True,
    ]
    assert [checkpoint["is_suspect"] for checkpoint in (first, second, third)] == [
        False,
        True,
        False,
    ]
    assert (first["given_to_attempts"], third["given_to_attempts"]) == ([], [1])
    page = runctl("checkpoints", "lm").stdout
    assert "proven, given to attempt 1" in page
    assert "suspect" in page


def test_suspect_is_not_pulled_unless_requested(over, runctl, tmp_path):
    over.ledger.mark_suspect("lm", 1, store_of(over).manifest_keys()[0])
    done = runctl("checkpoints", "pull", "lm", str(tmp_path / "got"))
    assert "step 2" in done.stdout
    assert "the newest checkpoint is suspect" in " ".join(done.stderr.split())
    assert described(tmp_path / "got") == described(tmp_path / "made-2")
    done = runctl("checkpoints", "pull", "lm", "3", str(tmp_path / "suspect"))
    assert (done.code, "suspect (" in done.stderr) == (0, False)
    assert described(tmp_path / "suspect") == described(tmp_path / "made-3")


def test_prune_keeps_the_proven_checkpoint_and_prefers_good_ones_to_suspects(over, runctl):
    newest, second, third = store_of(over).manifest_keys()
    over.ledger.mark_suspect("lm", 1, second)
    runctl("checkpoints", "prune", "lm", "--keep", "2")
    assert store_of(over).manifest_keys() == [newest, third]


def test_checkpoints_of_an_older_version_are_listed_last_and_pulled(over, runctl, tmp_path):
    store, client = store_of(over), over.clients.get("s3")
    oldest = store.manifest_keys()[-1]
    document = json.loads(client.get_object(Bucket=BUCKET, Key=oldest)["Body"].read())
    older = {name: value for name, value in document.items() if name != "save"}
    key = f"{identity.manifest_prefix('lm')}000000000900-0001.json"
    body = json.dumps({**older, "version": 1, "step": 900})
    client.put_object(Bucket=BUCKET, Key=key, Body=body)
    listed = runctl("checkpoints", "lm", "--json").document["checkpoints"]
    assert [(checkpoint["save"], checkpoint["step"]) for checkpoint in listed] == [
        (3, 3),
        (2, 2),
        (1, 1),
        (None, 900),
    ]
    assert runctl("checkpoints", "pull", "lm", "900", str(tmp_path / "got")).code == 0
    assert described(tmp_path / "got") == described(tmp_path / "made-1")


def test_damaged_part_is_found_named_and_exits_1(over, runctl):
    spoil(over, 2)
    done = runctl("checkpoints", "lm", "--verify", "--json")
    assert done.code == 1
    first, second, third = done.document["checkpoints"]
    assert "sub/own.bin" in second["damage"]
    assert "damage" not in first
    assert "damage" not in third
    assert "damaged: sub/own.bin" in runctl("checkpoints", "lm", "--verify").stdout
    assert runctl("checkpoints", "lm").code == 0  # without --verify the parts are not read


def test_pulled_folder_is_the_pushed_one(over, runctl, tmp_path):
    done = runctl("checkpoints", "pull", "lm", str(tmp_path / "got"), "--json")
    assert (done.code, done.document["step"]) == (0, 3)
    assert described(tmp_path / "got") == described(tmp_path / "made-3")
    assert runctl("checkpoints", "pull", "lm", "1", str(tmp_path / "first")).code == 0
    assert described(tmp_path / "first") == described(tmp_path / "made-1")
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert left == set()


def test_nonempty_folder_is_replaced_only_with_force(over, runctl, tmp_path):
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "mine").write_text("mine")
    done = runctl("checkpoints", "pull", "lm", str(tmp_path / "got"))
    assert (done.code, "--force" in done.stderr) == (2, True)
    assert (tmp_path / "got" / "mine").read_text() == "mine"
    assert runctl("checkpoints", "pull", "lm", str(tmp_path / "got"), "--force").code == 0
    assert described(tmp_path / "got") == described(tmp_path / "made-3")


def test_damaged_checkpoint_is_not_pulled_and_the_complete_one_before_it_is_named(
    over, runctl, tmp_path
):
    spoil(over, 3)
    done = runctl("checkpoints", "pull", "lm", str(tmp_path / "got"))
    assert done.code == 1
    assert "of step 2" in done.stderr
    assert not (tmp_path / "got").exists()
    assert runctl("checkpoints", "pull", "lm", "2", str(tmp_path / "got")).code == 0


MISTAKES = [
    (("pull", "nobody", "x"), 4, "run 'nobody' does not exist"),
    (("pull", "lm", "9", "x"), 4, "no checkpoint of step 9; it has 1, 2, 3"),
    (("pull", "lm", "save:9", "x"), 4, "no save 9; it has 1, 2, 3"),
    (("pull", "lm", "nine", "x"), 2, "STEP: 'nine'"),
    (("pull", "lm", "save:", "x"), 2, "a save, such as save:3"),
    (("pull", "lm", "1", "2", "x"), 2, "DIR: too many arguments"),
    (("push", "lm", "no-such-folder"), 2, "DIR: no-such-folder is not a folder"),
    (("push", "lm", "."), 2, "DIR: . holds no file"),
    (("prune", "lm", "--keep", "0"), 2, "--keep"),
    (("prune", "lm"), 2, "--keep"),
]


def test_invalid_arguments_are_refused_with_a_remedy(over, runctl):
    for words, code, expected in MISTAKES:
        done = runctl("checkpoints", *words)
        assert (done.code, expected in done.stderr) == (code, True), (words, done.stderr)


def test_push_and_prune_are_refused_until_the_run_has_ended(deployed, runctl, tmp_path):
    deployed.begin("lm")
    deployed.train("lm", 1)
    folder = make_folder(tmp_path / "made", 1)
    for words in (("push", "lm", str(folder)), ("prune", "lm", "--keep", "1")):
        done = runctl("checkpoints", *words)
        assert (done.code, "has not ended" in done.stderr) == (2, True)
    assert store_of(deployed).manifest_keys() == []


def test_push_is_refused_while_an_agent_is_still_saving(deployed, runctl, tmp_path):
    deployed.begin("lm")
    deployed.train("lm", 1)
    report(deployed.ledger, "lm", 1, phase="drain", now=now())
    deployed.end_attempt("lm", 1, OutcomeKind.STOPPED)
    deployed.end("lm", RunStatus.STOPPED)
    folder = make_folder(tmp_path / "made", 1)
    done = runctl("checkpoints", "push", "lm", str(folder))
    assert (done.code, "still saving" in done.stderr) == (2, True)


def test_push_into_a_run_that_has_been_resumed_changes_nothing(over, runctl, tmp_path, monkeypatch):
    before = over.ledger.find_run("lm")
    real = CheckpointStore.put_manifest

    def put_and_resume(self, manifest):
        key = real(self, manifest)
        arn = over.workflow.start_run("lm-r2", {"run_id": "lm"})
        over.ledger.resume_run("lm", execution="lm-r2", execution_arn=arn, first_attempt=2)
        over.train("lm", 2)
        return key

    monkeypatch.setattr(CheckpointStore, "put_manifest", put_and_resume)
    done = runctl("checkpoints", "push", "lm", str(make_folder(tmp_path / "late", 9)))
    assert (done.code, "has been resumed" in done.stderr) == (2, True)
    assert over.ledger.find_run("lm").newest == before.newest


def test_step_of_a_pushed_folder_is_read_from_its_names(over, runctl, tmp_path):
    folder = tmp_path / "named"
    folder.mkdir()
    (folder / "epoch-00041.pt").write_bytes(b"x")
    assert runctl("checkpoints", "push", "lm", str(folder), "--json").document["step"] == 41


def test_prune_removes_exactly_what_its_dry_run_shows(over, runctl):
    plan = runctl("checkpoints", "prune", "lm", "--keep", "1", "--dry-run", "--json").document
    assert (len(plan["kept"]), len(plan["removed"]), plan["parts"]) == (
        1,
        2,
        1,
    )  # the bundle of the first has a file that the kept one needs
    assert len(store_of(over).manifest_keys()) == 3
    done = runctl("checkpoints", "prune", "lm", "--keep", "1", "--json").document
    assert done == {**plan, "dry_run": False}
    assert runctl("checkpoints", "lm", "--verify").code == 0
    assert len(list(store_of(over).parts())) == 2
    again = runctl("checkpoints", "prune", "lm", "--keep", "1", "--json").document
    assert (again["removed"], again["parts"]) == ([], 0)


def test_newest_checkpoint_is_kept_although_another_has_a_higher_step(over, runctl, tmp_path):
    folder = make_folder(tmp_path / "back", 0)
    runctl("checkpoints", "push", "lm", str(folder), "--step", "0")
    runctl("checkpoints", "prune", "lm", "--keep", "1")
    (key,) = store_of(over).manifest_keys()
    assert key == over.ledger.find_run("lm").newest


def test_nothing_is_pruned_when_a_kept_checkpoint_cannot_be_read(over, runctl):
    newest = over.ledger.find_run("lm").newest
    over.clients.get("s3").put_object(Bucket=BUCKET, Key=newest, Body=b"{")
    done = runctl("checkpoints", "prune", "lm", "--keep", "1")
    assert (done.code, "nothing is removed" in done.stderr) == (1, True)
    assert len(store_of(over).manifest_keys()) == 3


def test_part_without_a_manifest_is_removed_after_a_day(over):
    store = store_of(over)
    orphan = identity.part_key("lm", "0" * 64)
    over.clients.get("s3").put_object(Bucket=BUCKET, Key=orphan, Body=b"left by a killed save")
    run = over.ledger.find_run("lm")
    young = pruning.plan_pruning(store, run, keep=9, now=now())
    old = pruning.plan_pruning(store, run, keep=9, now=now() + timedelta(hours=25))
    assert young.parts == ()
    assert [part.sha256 for part in old.parts] == ["0" * 64]
    pruning.carry_out(store, old)
    assert "0" * 64 not in {part.sha256 for part in store.parts()}


def test_manifest_of_a_newer_version_is_refused_as_such(over, runctl, tmp_path):
    newest = over.ledger.find_run("lm").newest
    client = over.clients.get("s3")
    document = json.loads(client.get_object(Bucket=BUCKET, Key=newest)["Body"].read())
    client.put_object(Bucket=BUCKET, Key=newest, Body=json.dumps({**document, "version": 99}))
    done = runctl("checkpoints", "pull", "lm", str(tmp_path / "got"))
    assert (done.code, "version 99" in done.stderr, "upgrade" in done.stderr) == (1, True, True)


def rewrite(deployed: Deployed, step: int, change) -> None:
    """Change the text of a step's newest manifest, as anybody with access to the bucket can."""
    client = deployed.clients.get("s3")
    store = store_of(deployed)
    key = next(key for key in store.manifest_keys() if store.get_manifest(key).step == step)
    document = json.loads(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    change(document)
    client.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(document))


@pytest.mark.parametrize("attack", ["file through a link", "hard link through a link"])
def test_hostile_manifest_writes_nothing_outside_the_folder(over, runctl, tmp_path, attack):
    victim = tmp_path / "home" / ".bashrc"
    victim.parent.mkdir()
    victim.write_text("of the victim")
    victim.chmod(0o600)
    before = victim.stat()

    def change(document):
        common = {"mode": 0o666, "mtime_ns": 1, "parts": []}
        file = next(entry for entry in document["entries"] if entry["kind"] == "file")
        if attack == "file through a link":
            added = [{**common, "path": file["path"], "kind": "link", "target": str(victim)}]
        else:
            added = [
                {**common, "path": "home", "kind": "link", "target": str(victim.parent)},
                {**common, "path": "key", "kind": "hard", "target": "home/.bashrc"},
            ]
        document["entries"] = [*added, *document["entries"]]

    rewrite(over, 3, change)
    done = runctl("checkpoints", "pull", "lm", str(tmp_path / "got"))
    assert (done.code, "the manifest cannot be read" in done.stderr) == (1, True)
    assert not (tmp_path / "got").exists()
    after = victim.stat()
    assert victim.read_text() == "of the victim"
    assert (after.st_mode, after.st_nlink) == (before.st_mode, before.st_nlink)
    assert runctl("checkpoints", "lm").code == 1
    assert runctl("checkpoints", "prune", "lm", "--keep", "2").code == 1
    assert runctl("checkpoints", "pull", "lm", "2", str(tmp_path / "got")).code == 0


def test_wrong_size_is_found_although_another_manifest_has_the_right_one(over, runctl, tmp_path):
    again = make_folder(tmp_path / "again", 3)
    (again / "more").write_text("more")
    assert runctl("checkpoints", "push", "lm", str(again), "--step", "4").code == 0

    def change(document):
        for part in document["parts"]:
            part["size_bytes"] += 1
        for entry in document["entries"]:
            if entry["kind"] == "file" and "offset" not in entry:
                entry["size_bytes"] = entry.get("size_bytes", 0) + len(entry["parts"])

    rewrite(over, 3, change)
    done = runctl("checkpoints", "lm", "--verify", "--json")
    assert done.code == 1
    assert [
        checkpoint["step"] for checkpoint in done.document["checkpoints"] if "damage" in checkpoint
    ] == [3]


def test_invalid_instant_does_not_break_the_list(over, runctl):
    rewrite(over, 3, lambda document: document.update(taken_at="tomorrow\x1b[2J"))
    done = runctl("checkpoints", "lm")
    assert done.code == 0
    assert "\x1b" not in done.stdout


def test_checkpoint_that_does_not_fit_on_the_disk_is_refused(over, runctl, tmp_path, monkeypatch):
    small = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(
        "runctl.cli.commands.checkpoints.transfers.shutil.disk_usage", lambda _: small
    )
    done = runctl("checkpoints", "pull", "lm", str(tmp_path / "got"))
    assert done.code == 2
    assert "DIR: the checkpoint needs" in done.stderr
    assert "another disk" in done.stderr
    assert not (tmp_path / "got").exists()
