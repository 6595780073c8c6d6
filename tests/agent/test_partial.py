"""The files of an unfinished save are kept separately, and given to the next trainer."""

from __future__ import annotations

import pytest

from runctl.model.saving_options import CheckpointOptions
from tests.agent.machine import Cloud, wait_until

pytestmark = pytest.mark.slow

# Ignores SIGTERM in the middle of a save, so that it is killed there.
TORN = """
    import os, pathlib, signal, sys, time
    folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    partial = os.environ.get("RUNCTL_PARTIAL_DIR")
    found = sorted(path.name for path in pathlib.Path(partial).iterdir()) if partial else None
    whole = sorted(path.name for path in folder.iterdir())
    print("whole", whole, "partial", found, flush=True)
    if os.environ["RUNCTL_ATTEMPT"] == "1":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / "step-3.bin").write_bytes(b"whole")
        while not os.path.exists(os.environ["RUNCTL_OUTPUT_DIR"] + "/go"):
            time.sleep(0.02)
        with (folder / "step-4.bin").open("wb") as stream:
            while True:
                stream.write(b"torn")
                stream.flush()
                time.sleep(0.02)
    if os.environ["RUNCTL_ATTEMPT"] == "2":
        assert (pathlib.Path(partial) / "step-4.bin").read_bytes().startswith(b"torn")
        (folder / "step-5.bin").write_bytes(b"whole again")
        while True:
            time.sleep(0.02)
"""


def test_torn_save_is_passed_on_until_there_is_a_newer_whole_one(cloud: Cloud, launch) -> None:
    cloud.create_run(TORN, checkpoint=CheckpointOptions(grace_seconds=1))
    cloud.open_attempt()
    cloud.give_token()
    first = launch()
    wait_until(lambda: cloud.run().step == 3)
    (first.state / "output/go").touch()
    wait_until((first.checkpoint / "step-4.bin").exists)
    first.metadata.give_notice(seconds=60)
    assert cloud.outcome()["step"] == 3
    assert cloud.run().step == 3
    assert len(cloud.keys("runs/run-1/checkpoints/partial/")) == 1
    assert said(first) == "whole [] partial None"

    cloud.open_attempt(2)
    cloud.give_token(2)
    second = launch(attempt=2)
    wait_until(lambda: cloud.run().step == 5)
    assert said(second) == "whole ['step-3.bin'] partial ['step-4.bin']"
    wait_until(lambda: not cloud.keys("runs/run-1/checkpoints/partial/"))
    second.end()

    cloud.open_attempt(3)
    cloud.give_token(3)
    third = launch(attempt=3)
    wait_until(lambda: said(third))
    assert said(third) == "whole ['step-3.bin', 'step-5.bin'] partial None"


def said(machine) -> str:
    path = machine.state / "log/trainer.out"
    return path.read_text().partition("\n")[0] if path.exists() else ""


# Creates its file before it has anything to write to it.
EMPTY = """
    import os, pathlib, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with (pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"]) / "step-1.bin").open("wb"):
        print("opened", flush=True)
        time.sleep(600)
"""


def test_file_without_content_is_not_kept_as_an_unfinished_save(cloud: Cloud, launch) -> None:
    cloud.create_run(EMPTY, checkpoint=CheckpointOptions(grace_seconds=1))
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    wait_until(lambda: said(machine) == "opened")
    machine.metadata.give_notice(seconds=60)
    cloud.outcome()
    assert not cloud.keys("runs/run-1/checkpoints/partial/")
