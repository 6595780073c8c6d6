"""Faulty checkpoint folders are reported once, and training continues where it can."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import pytest

from runctl.model.saving_options import CheckpointOptions
from tests.agent.machine import Cloud, Machine, wait_until

pytestmark = pytest.mark.slow

# Waits for the named file to appear next to its output, so that a test advances it step by step.
STEPPING = """
    import os, pathlib, shutil, sys, time
    folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    gate = pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"])

    def wait_for(name):
        while not (gate / name).exists():
            time.sleep(0.02)

    {body}
"""


# Modes have no effect on root unless it gives up that capability, for its children as well.
AS_ANYBODY = () if os.geteuid() else ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def run(cloud: Cloud, launch, body: str, *, under: Sequence[str] = (), **request) -> Machine:
    indented = "\n    ".join(line for line in body.strip().splitlines())
    cloud.create_run(STEPPING.format(body=indented), **request)
    cloud.open_attempt()
    cloud.give_token()
    return launch(under=under)


def let(machine: Machine, name: str) -> None:
    (machine.state / "output" / name).touch()


def test_folder_that_is_a_file_of_the_project_fails_the_run_with_the_fields_name(
    cloud: Cloud, launch
) -> None:
    run(
        cloud,
        launch,
        "print('never')",
        files={"weights": "a file"},
        checkpoint=CheckpointOptions(dir="weights"),
    )
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert "checkpoint.dir: weights is a file" in outcome["reason"]


def test_folder_that_the_trainer_replaces_by_a_file_keeps_the_previous_checkpoint(
    cloud: Cloud, launch
) -> None:
    machine = run(
        cloud,
        launch,
        """
(folder / "step-1.bin").write_bytes(b"one")
wait_for("go")
shutil.rmtree(folder)
folder.write_text("a file")
wait_for("end")
""",
    )
    wait_until(lambda: cloud.run().step == 1)
    let(machine, "go")
    wait_until(machine.checkpoint.is_file)
    wait_until(lambda: "is not a folder any more" in cloud.attempt().warning)
    let(machine, "end")
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["step"]) == ("completed", 1)
    assert machine.agent_log().count("is not a folder any more") == 1


def test_folder_that_becomes_unreadable_is_reported_once_and_saved_when_it_can_be_read(
    cloud: Cloud, launch
) -> None:
    body = """
(folder / "step-1.bin").write_bytes(b"one")
wait_for("go")
folder.chmod(0)
wait_for("on")
folder.chmod(0o755)
(folder / "step-2.bin").write_bytes(b"two")
wait_for("end")
"""
    machine = run(cloud, launch, body, under=AS_ANYBODY)
    wait_until(lambda: cloud.run().step == 1)
    let(machine, "go")
    wait_until(lambda: "Permission denied" in cloud.attempt().warning)
    assert cloud.attempt().ended is None
    let(machine, "on")
    wait_until(lambda: cloud.run().step == 2)
    wait_until(lambda: cloud.attempt().warning == "")
    let(machine, "end")
    assert cloud.outcome()["kind"] == "completed"
    assert machine.agent_log().count("cannot be scanned") == 1


def test_folder_that_is_unreadable_at_the_end_fails_the_run_and_costs_no_checkpoint(
    cloud: Cloud, launch
) -> None:
    body = """
(folder / "step-1.bin").write_bytes(b"one")
wait_for("end")
(folder / "step-2.bin").write_bytes(b"two")
folder.chmod(0)
"""
    machine = run(cloud, launch, body, under=AS_ANYBODY)
    wait_until(lambda: cloud.run().step == 1)
    let(machine, "end")
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["step"]) == ("failed", 1)
    assert "its last checkpoint could not be saved" in outcome["reason"]
    assert "Permission denied" in cloud.attempt().warning


def test_trainer_that_empties_its_folder_loses_nothing_committed(cloud: Cloud, launch) -> None:
    machine = run(
        cloud,
        launch,
        """
(folder / "step-1.bin").write_bytes(b"one")
wait_for("go")
(folder / "step-1.bin").unlink()
wait_for("end")
""",
    )
    wait_until(lambda: cloud.run().step == 1)
    newest = cloud.run().newest
    let(machine, "go")
    let(machine, "end")
    assert cloud.outcome()["kind"] == "completed"
    assert cloud.run().newest == newest


def test_names_that_are_not_utf_8_are_saved_and_restored(cloud: Cloud, launch) -> None:
    body = """
name = os.fsencode(folder) + b"/step-\\xff\\xfe-7.bin"
if os.environ["RUNCTL_ATTEMPT"] == "1":
    open(name, "wb").write(b"odd name")
    (folder / "gewichte-größe-重み-7.bin").write_bytes(b"other")
    wait_for("end")
else:
    print(open(name, "rb").read().decode(), flush=True)
"""
    machine = run(cloud, launch, body)
    wait_until(lambda: cloud.run().newest)
    machine.end()
    cloud.open_attempt(2)
    cloud.give_token(2)
    second = launch(attempt=2)
    assert cloud.outcome()["kind"] == "completed"
    assert "odd name" in (second.state / "log/trainer.out").read_text()
    assert (second.checkpoint / "gewichte-größe-重み-7.bin").read_bytes() == b"other"


def test_another_program_that_writes_to_the_folder_delays_no_save(cloud: Cloud, launch) -> None:
    body = """
import subprocess
other = subprocess.Popen([sys.executable, "-c", '''
import sys, time
with open(sys.argv[1], "wb") as stream:
    while True:
        stream.write(b"x")
        stream.flush()
        time.sleep(0.05)
''', str(folder / "other-9.bin")])
(folder / "step-1.bin").write_bytes(b"one")
wait_for("end")
other.kill()
"""
    machine = run(cloud, launch, body)
    wait_until(lambda: cloud.run().step == 1)
    manifest = json.loads(cloud.read(cloud.run().newest))
    assert [entry["path"] for entry in manifest["entries"]] == ["step-1.bin"]
    let(machine, "end")
    assert cloud.outcome()["kind"] == "completed"


def test_checkpoint_of_a_newer_runctl_is_refused_with_the_remedy(cloud: Cloud, launch) -> None:
    first = run(cloud, launch, '(folder / "step-1.bin").write_bytes(b"one"); wait_for("end")')
    newest = wait_until(lambda: cloud.run().newest)
    first.end()
    manifest = {**json.loads(cloud.read(newest)), "version": 99}
    cloud.clients["s3"].put_object(
        Bucket=cloud.name, Key=newest, Body=json.dumps(manifest).encode()
    )
    cloud.open_attempt(2)
    cloud.give_token(2)
    launch(attempt=2)
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert "version 99" in outcome["reason"]
    assert "upgrade it" in outcome["reason"]
    assert cloud.run().newest == newest
