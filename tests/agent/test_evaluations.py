"""Evaluations of checkpoints of other runs: real agents and programs, each checkpoint once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from runctl.model.evaluation_history import read_history
from runctl.model.evaluation_options import EvaluationOptions
from runctl.model.outcome import RunStatus
from runctl.model.subject import Subject, subject_of
from tests.agent.machine import Cloud, now, wait_until
from tests.agent.planting import plant

pytestmark = pytest.mark.slow

HISTORY = "runs/run-1/outputs/evaluations.jsonl"
EVALUATES = """
    import json, os, pathlib, sys, time
    weights = pathlib.Path(sys.argv[1]) / "weights"
    outputs = pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"])
    step = os.environ["RUNCTL_EVALUATED_STEP"]
    print("evaluates", step, "read only" if weights.stat().st_mode & 0o222 == 0 else "", flush=True)
    while step == os.environ.get("WAITS_AT") and os.environ["RUNCTL_ATTEMPT"] == "1":
        time.sleep(0.1)
    accuracy = float(weights.read_text())
    (outputs / "metrics.json").write_text(json.dumps({"accuracy": accuracy}))
    print("evaluated", step, flush=True)
"""


@pytest.fixture
def trained(cloud: Cloud) -> Cloud:
    """Another run in the same bucket and ledger, with two checkpoints."""
    other = replace(cloud, run_id="trained")
    other.create_run()
    for step in (10, 20):
        commit(other, step)
    return other


def commit(trained: Cloud, step: int) -> str:
    return plant(trained, {"weights": str(step / 100).encode()}, step=step, attempt=0)


def end(trained: Cloud) -> None:
    trained.ledger.end_run("trained", status=RunStatus.COMPLETED, reason="", now=now())


def begin(
    cloud: Cloud, *, subject: Subject | None = None, every: bool = False, **more: Any
) -> None:
    cloud.create_run(
        EVALUATES,
        kind="evaluate",
        evaluate=EvaluationOptions(checkpoint="run:trained", every_checkpoint=every),
        args=("$RUNCTL_INPUT_DIR/checkpoint",),
        subject=subject,
        **more,
    )
    cloud.open_attempt()
    cloud.give_token()


def printed(machine: Any, word: str = "evaluated") -> list[str]:
    path = machine.state / "log/trainer.out"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.startswith(f"{word} ")]


def history(cloud: Cloud) -> list[tuple[int | None, Any]]:
    lines = read_history(cloud.read(HISTORY))
    return [(each.step, each.metrics.get("accuracy")) for each in lines]


def test_a_checkpoint_of_another_run_is_restored_read_only(
    cloud: Cloud, trained: Cloud, launch
) -> None:
    newest = trained.run().newest
    subject = subject_of(newest, cloud_store(cloud).get_manifest(newest))
    begin(cloud, subject=subject)

    machine = launch()

    assert cloud.outcome()["kind"] == "completed"
    assert printed(machine, "evaluates") == ["evaluates 20 read only"]
    assert cloud.run().metrics == {"accuracy": 0.2}
    assert cloud.run().newest is None
    machine.wait()


def cloud_store(cloud: Cloud) -> Any:
    from runctl.aws.checkpoints import CheckpointStore

    return CheckpointStore(cloud.clients["s3"], bucket=cloud.name, run_id="trained")


def test_a_checkpoint_that_is_gone_fails_the_run_with_its_name(
    cloud: Cloud, trained: Cloud, launch
) -> None:
    newest = trained.run().newest
    subject = subject_of(newest, cloud_store(cloud).get_manifest(newest))
    cloud_store(cloud).delete_manifest(newest)
    begin(cloud, subject=subject)

    machine = launch()

    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert "the checkpoint of step 20 of trained cannot be restored" in outcome["reason"]
    machine.wait()


def test_each_checkpoint_is_evaluated_once_until_the_run_has_ended(
    cloud: Cloud, trained: Cloud, launch
) -> None:
    begin(cloud, every=True)
    machine = launch()
    wait_until(lambda: len(printed(machine)) == 2)
    commit(trained, 30)
    wait_until(lambda: cloud.run().evaluated_save == 3)
    end(trained)

    outcome = cloud.outcome()

    assert (outcome["kind"], outcome["reason"]) == ("completed", "3 checkpoints evaluated")
    assert printed(machine) == ["evaluated 10", "evaluated 20", "evaluated 30"]
    assert history(cloud) == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert cloud.run().metrics == {"accuracy": 0.3, "step": 30}
    assert json.loads(cloud.read("runs/run-1/outputs/step-10/metrics.json")) == {"accuracy": 0.1}
    assert trained.run().pins == frozenset()
    assert cloud.run().progressed_attempt == 1
    machine.wait()


def test_an_interrupted_evaluation_is_repeated_and_no_other(
    cloud: Cloud, trained: Cloud, launch
) -> None:
    begin(cloud, every=True, env={"WAITS_AT": "20"})
    first = launch()
    wait_until(lambda: len(printed(first, "evaluates")) == 2)
    wait_until(lambda: cloud.ledger.attempts("run-1")[0].phase == "evaluate")
    first.metadata.give_notice(seconds=60)
    assert cloud.outcome()["kind"] == "interrupted"
    first.wait()
    # It waits for the next attempt; the one that is evaluated already is free.
    assert {pin.rpartition("/")[2] for pin in trained.run().pins} == {"s000000002-0000.json"}
    end(trained)
    cloud.open_attempt(2)
    cloud.give_token(2)
    second = launch(attempt=2)

    wait_until(lambda: len(cloud.tokens.reports) == 2)

    assert cloud.tokens.reports[1]["outcome"]["reason"] == "2 checkpoints evaluated"
    assert printed(first) == ["evaluated 10"]
    assert printed(second) == ["evaluated 20"]
    assert history(cloud) == [(10, 0.1), (20, 0.2)]
    second.wait()


def test_an_agent_that_is_killed_after_it_stored_a_result_repeats_nothing(
    cloud: Cloud, trained: Cloud, launch
) -> None:
    begin(cloud, every=True)
    machine = launch(fault="evaluation.history_stored")
    machine.wait()
    assert cloud.run().evaluated_save == 0
    end(trained)
    machine.fault = ""
    machine.start()

    assert cloud.outcome()["kind"] == "completed"

    assert printed(machine) == ["evaluated 10", "evaluated 20"]
    assert history(cloud) == [(10, 0.1), (20, 0.2)]
    machine.wait()


def test_a_program_that_fails_ends_the_run_with_the_name_of_the_checkpoint(
    cloud: Cloud, trained: Cloud, launch
) -> None:
    plant(trained, {"weights": b"no number"}, step=30, attempt=0)
    begin(cloud, every=True)

    machine = launch()

    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert outcome["reason"].startswith("the evaluation of step 30: exit code 1")
    assert cloud.run().evaluated_save == 2
    machine.wait()
