"""A sweep: its plots come last, and what becomes of them does not change how it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.workflow.scripted import ScriptedWorkflow

REQUEST = {"script": "train.py", "sweep": {"hyperparameters": {"lr": "0.1,0.2"}}}
RUNS = {"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}}


@pytest.fixture(scope="module")
def sweeps(shared_workflow: ScriptedWorkflow) -> ScriptedWorkflow:
    cloud = shared_workflow.cloud
    made = cloud.client("stepfunctions").create_state_machine(
        name="runs-of-sweeps", definition=json.dumps(RUNS), roleArn=cloud.role()
    )
    return ScriptedWorkflow(cloud, "sweep", {"run_machine": made["stateMachineArn"]})


def script(status: str = "completed", **parts: Any) -> dict[str, Any]:
    prepared = {"group_id": "RUN", "sampler": "random", "instances": 2, "numbers": [1, 2]}
    result = {"group_id": "RUN", "status": status, "reason": "1 of 2", "trials": 2, "ended": 2}
    return {
        "prepare_sweep": [{"answers": prepared}],
        "ask_trial": [{"answers": {"group_id": "RUN", "number": 1, "start": False}}],
        "finish_sweep": [{"answers": result}],
        "plot_sweep": [{"answers": {"group_id": "RUN", "plots": [], "reason": "no metric"}}],
        "clean_up": [{"answers": {"status": "cleaned"}}],
        **parts,
    }


def test_the_result_is_that_of_the_sweep_and_not_of_its_plots(sweeps: ScriptedWorkflow) -> None:
    walk = sweeps.run(script(), REQUEST)
    assert walk.described["status"] == "SUCCEEDED"
    assert walk.output["reason"] == "1 of 2"
    assert walk.states[-4:] == ["FinishSweep", "PlotSweep", "Result", "SweepFinished"]
    assert walk.payloads("plot_sweep") == [{"group_id": walk.described["name"]}]


@pytest.mark.parametrize("error", ["SetupError", "ValueError", "MemoryError"])
def test_a_sweep_whose_plots_fail_is_completed(sweeps: ScriptedWorkflow, error: str) -> None:
    raised = [{"raises": error, "message": "plots need matplotlib"}]
    walk = sweeps.run(script(plot_sweep=raised), REQUEST)
    assert (walk.described["status"], walk.output["status"]) == ("SUCCEEDED", "completed")
    assert len(walk.payloads("plot_sweep")) == 1
    assert not walk.payloads("clean_up")


def test_plots_are_tried_again_while_a_service_is_throttling(
    sweeps: ScriptedWorkflow,
) -> None:
    throttled = {"raises": "TransientError", "message": "slow down"}
    plotted = {"answers": {"group_id": "RUN", "plots": ["groups/RUN/plots/history.png"]}}
    walk = sweeps.run(script(plot_sweep=[throttled, plotted]), REQUEST)
    assert walk.described["status"] == "SUCCEEDED"
    assert len(walk.payloads("plot_sweep")) == 2
    walk = sweeps.run(script(plot_sweep=[throttled]), REQUEST)
    assert (walk.described["status"], walk.output["reason"]) == ("SUCCEEDED", "1 of 2")
    assert len(walk.payloads("plot_sweep")) == 4


def test_a_sweep_that_failed_is_plotted_and_fails(sweeps: ScriptedWorkflow) -> None:
    walk = sweeps.run(script("failed"), REQUEST)
    assert (walk.described["status"], walk.described["error"]) == ("FAILED", "SweepFailed")
    assert len(walk.payloads("plot_sweep")) == 1


def test_results_that_could_not_be_stored_are_not_plotted(sweeps: ScriptedWorkflow) -> None:
    broken = [{"raises": "UnexpectedAwsError", "message": "no"}]
    walk = sweeps.run(script(finish_sweep=broken), REQUEST)
    assert walk.described["error"] == "UnexpectedAwsError"
    assert not walk.payloads("plot_sweep")
    assert len(walk.payloads("clean_up")) == 1
