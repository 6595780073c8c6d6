"""Sweeps: each trial once, whatever is repeated, lost, stopped or resumed."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest

from runctl.control.sweeps.judge_trial import judge_trial
from runctl.model.errors import InvalidRequestError, NotFoundError, RequestError, SetupError
from runctl.model.identity import sweep_results_key
from runctl.model.node import NodeId, NodeProgress
from runctl.model.outcome import RunStatus
from runctl.model.trial import TrialState
from tests.control.fakes import START
from tests.control.scenes import OF_OTHER_RUNS
from tests.control.steps import prepare_run
from tests.control.sweeps import REQUEST, SWEEP, ExecutionStart, SweepWorld


@pytest.fixture
def world() -> SweepWorld:
    return SweepWorld()


def sweeping(world: SweepWorld, **sweep: object) -> SweepWorld:
    world.prepare({**REQUEST, "sweep": {**REQUEST["sweep"], **sweep}})
    return world


def test_a_sweep_is_recorded_with_its_trials(world: SweepWorld) -> None:
    prepared = world.prepare()
    assert (prepared.group_id, prepared.instances, prepared.sampler) == (SWEEP, 5, "grid")
    assert prepared.numbers == tuple(range(1, 10))
    assert world.prepare() == prepared
    assert world.groups.find_group(SWEEP).kind == "sweep"


def test_what_no_trial_could_be_limited_to_is_refused_before_the_sweep_exists(
    world: SweepWorld,
) -> None:
    with pytest.raises(InvalidRequestError, match="inputs: the session of the run cannot name 20"):
        world.prepare({**REQUEST, "inputs": OF_OTHER_RUNS})
    assert world.groups.find_group(SWEEP) is None


def test_a_trial_is_a_run_with_its_hyperparameters(world: SweepWorld) -> None:
    sweeping(world)
    asked = world.ask(2)
    assert (asked.start, asked.execution) == (True, "search-0002")
    assert asked.request["command"] == ["train", "--lr", "0.001", "--size", "64"]
    assert asked.request["group"] == SWEEP
    assert asked.request["trial"] == {
        "number": 2,
        "hyperparameters": {"lr": 0.001, "size": 64},
        "metric": "loss",
        "direction": "minimize",
    }
    assert world.ask(2) == asked
    run = world.start(2)
    assert (run.run_id, run.request.trial.hyperparameters["size"]) == ("search-0002", 64)


def test_all_trials_end_with_their_values_and_the_best_is_in_the_results(world: SweepWorld) -> None:
    sweeping(world)
    for number in range(1, 10):
        recorded = world.run_trial(number, loss=abs(number - 4) / 10)
        assert (recorded.state, recorded.is_running) == (TrialState.COMPLETED, False)
    result = world.finish()
    assert (result.status, result.best, result.value) == (RunStatus.COMPLETED, 4, 0.0)
    assert world.results()["best"]["hyperparameters"] == {"lr": 0.01, "size": 32}
    lines = world.blobs.bodies[sweep_results_key(SWEEP, "results.csv")].decode().splitlines()
    assert lines[0] == "trial,run_id,state,lr,size,loss,reason"
    assert lines[4] == "4,search-0004,completed,0.01,32,0.0,"
    assert world.finish() == result


def test_a_failed_trial_does_not_end_the_sweep(world: SweepWorld) -> None:
    sweeping(world)
    world.start(1)
    world.end(1, RunStatus.FAILED, "exit code 1: no such file")
    recorded = world.settle(1, "States.TaskFailed: {}")
    assert recorded.state is TrialState.FAILED
    assert world.trial(1).reason == "exit code 1: no such file"
    world.run_trial(2, loss=0.5)
    assert world.finish().status is RunStatus.COMPLETED


def test_a_sweep_without_any_completed_trial_has_failed(world: SweepWorld) -> None:
    sweeping(world)
    world.run_trial(1, accuracy=0.5)
    result = world.finish()
    assert result.status is RunStatus.FAILED
    assert (
        "trial 1: the script never reported loss; name one of those that it reported (accuracy)"
        in result.reason
    )


def test_a_metric_that_becomes_nan_fails_the_trial(world: SweepWorld) -> None:
    sweeping(world)
    world.start(1)
    world.report(1, loss=0.5, accuracy=0.1)
    progress = NodeProgress(metrics={"accuracy": 0.1}, not_finite=frozenset({"loss"}))
    world.ledger.record_progress(NodeId("search-0001", 1, 0), progress, now=START)
    world.end(1)
    assert world.settle(1).state is TrialState.FAILED
    assert "loss is NaN or infinite" in world.trial(1).reason


def test_metrics_of_the_result_count_more_than_reported_ones(world: SweepWorld) -> None:
    sweeping(world)
    world.start(1)
    world.report(1, loss=0.5)
    world.ledger.runs["search-0001"] = world.ledger.runs["search-0001"].__class__(
        **{**vars(world.ledger.runs["search-0001"]), "metrics": {"loss": 0.25}}
    )
    world.end(1)
    world.settle(1)
    assert world.trial(1).value == 0.25


def test_an_attempt_that_reports_nothing_keeps_the_values_of_the_one_before(
    world: SweepWorld,
) -> None:
    sweeping(world)
    world.start(1)
    world.report(1, loss=0.5)
    world.ledger.open_attempt(
        "search-0001", 2, launch_try=1, source=world.ledger.attempts("search-0001")[0].source,
        now=START,
    )  # fmt: skip
    world.end(1)
    world.settle(1)
    assert world.trial(1).value == 0.5


def test_a_trial_whose_run_goes_on_is_not_failed(world: SweepWorld) -> None:
    sweeping(world)
    world.start(1)
    recorded = world.settle(1, "StepFunctions.ExecutionAlreadyExistsException: it exists")
    assert (recorded.state, recorded.is_running) == (TrialState.RUNNING, True)


def test_a_trial_whose_execution_has_not_recorded_its_run_yet_is_running(world: SweepWorld) -> None:
    sweeping(world)
    world.ask(1)
    world.workflow.running.add("arn:search-0001")
    assert world.settle(1, "StepFunctions.ExecutionAlreadyExistsException").is_running


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        ("ABORTED", TrialState.STOPPED, "its execution was stopped"),
        ("FAILED", TrialState.FAILED, "the reason"),
        ("TIMED_OUT", TrialState.FAILED, "the reason"),
    ],
)
@pytest.mark.parametrize("has_run", [True, False])
def test_a_trial_ends_with_its_execution_also_before_its_clean_up(
    world: SweepWorld, status: str, state: TrialState, reason: str, has_run: bool
) -> None:
    sweeping(world)
    if has_run:
        world.start(1)
    else:
        world.ask(1)
    world.over("search-0001", status, "the reason")
    assert world.settle(1, "States.TaskFailed").state is state
    assert world.trial(1).reason == reason


def test_a_trial_whose_execution_is_forgotten_is_stale_and_not_failed(world: SweepWorld) -> None:
    sweeping(world)
    world.start(1)
    world.workflow.running.clear()
    assert world.settle(1).state is TrialState.STALE


def test_a_trial_that_could_not_be_started_failed_with_the_error(world: SweepWorld) -> None:
    sweeping(world)
    world.ask(1)
    assert world.settle(1, "StepFunctions.AccessDenied: no").state is TrialState.FAILED
    assert world.trial(1).reason == "it did not start: StepFunctions.AccessDenied: no"


def test_after_a_stop_nothing_is_started_and_what_runs_is_told(world: SweepWorld) -> None:
    sweeping(world)
    world.start(1)
    world.ask(2)
    world.groups.request_stop(SWEEP)
    assert world.ask(1).start
    # Its execution was asked for, and never began.
    assert not world.ask(2).start
    assert not world.ask(3).start
    world.end(1, RunStatus.STOPPED, "stopped by `runctl sweep stop`")
    assert world.settle(1, "States.TaskFailed").state is TrialState.STOPPED
    result = world.finish()
    assert result.status is RunStatus.STOPPED
    assert result.reason == "the sweep was stopped: 0 of 9 trials are completed or pruned"


def test_after_the_deadline_nothing_is_started(world: SweepWorld) -> None:
    deadline = (START + timedelta(hours=1)).isoformat()
    sweeping(world, deadline=deadline)
    assert world.ask(1).request["deadline"] == deadline
    world.run_trial(1, loss=0.1)
    world.clock.advance(timedelta(hours=1))
    assert not world.ask(2).start
    result = world.finish()
    assert result.status is RunStatus.COMPLETED
    assert "the deadline has passed: 1 of 9 trials" in result.reason


def test_a_resumed_sweep_runs_what_is_missing(world: SweepWorld) -> None:
    sweeping(world)
    world.run_trial(1, loss=0.1)
    world.start(2)
    world.start(3)
    world.groups.request_stop(SWEEP)
    world.end(2, RunStatus.STOPPED)
    world.settle(2)
    world.end(3, RunStatus.FAILED, "exit code 1")
    # The end of trial 3 is not recorded: its child was stopped.
    world.finish()
    world.over("sweep:search", "SUCCEEDED")
    prepared = world.prepare({"group_id": SWEEP}, "search-r2")
    assert prepared.numbers == (2, 4, 5, 6, 7, 8, 9)
    assert world.trial(3).state is TrialState.FAILED
    asked = world.ask(2)
    assert (asked.execution, asked.request) == ("search-0002-r2", {"run_id": "search-0002"})
    assert world.ask(2) == asked
    # Until that execution has begun, the old end of the run is not the end of the trial.
    assert world.settle(2).is_running
    run = world.start(2)
    assert (run.execution, run.ended) == ("search-0002-r2", None)
    world.report(2, loss=0.2)
    world.end(2)
    assert world.settle(2).state is TrialState.COMPLETED
    for number in range(4, 10):
        world.run_trial(number, loss=1.0)
    assert world.finish("search-r2").ended == 9
    assert [trial["state"] for trial in world.results()["trials"]].count("completed") == 8


def test_an_ended_trial_is_not_started_again(world: SweepWorld) -> None:
    sweeping(world)
    world.run_trial(1, loss=0.1)
    assert not world.ask(1).start


def test_a_sweep_that_runs_cannot_be_resumed(world: SweepWorld) -> None:
    sweeping(world)
    with pytest.raises(RequestError, match="is running in the execution search; stop it or wait"):
        world.prepare({"group_id": SWEEP}, "search-r2")


def test_a_sweep_whose_execution_ended_unnoticed_can_be_resumed(world: SweepWorld) -> None:
    sweeping(world)
    world.over("sweep:search", "TIMED_OUT")
    assert world.prepare({"group_id": SWEEP}, "search-r2").numbers == tuple(range(1, 10))


def test_an_unknown_sweep_is_not_found(world: SweepWorld) -> None:
    with pytest.raises(NotFoundError, match="there is no sweep other"):
        world.prepare({"group_id": "other"}, "other-r2")


def test_a_name_that_is_taken_is_refused(world: SweepWorld) -> None:
    execution = ExecutionStart(arn="arn:search-0001", name="search-0001", started_at=START)
    prepare_run(world, execution, {"command": ["train"]})
    with pytest.raises(InvalidRequestError, match="there is a run search-0001 already"):
        world.prepare()
    with pytest.raises(InvalidRequestError, match="names the sweep; use 1 to 58 letters"):
        world.prepare(name="x" * 59)


def pruning(world: SweepWorld) -> SweepWorld:
    return sweeping(world, pruner="asha", first_rung=2, reduction_factor=3)


def test_a_trial_that_is_worse_at_a_rung_is_pruned_for_good(world: SweepWorld) -> None:
    pruning(world)
    world.start(1)
    world.start(2)
    assert judge_trial(world, "search-0001", rung=2, value=0.5).goes_on
    assert not judge_trial(world, "search-0002", rung=2, value=0.6).goes_on
    # Asked again after an interruption, the answer is the same.
    assert not judge_trial(world, "search-0002", rung=2, value=0.1).goes_on
    world.report(2, loss=0.6)
    world.end(2)
    assert world.settle(2).state is TrialState.PRUNED
    assert world.trial(2).reason == "pruned at step 2"
    assert world.finish().best is None


def test_only_trials_of_sweeps_that_prune_are_judged(world: SweepWorld) -> None:
    sweeping(world)
    world.start(1)
    world.start(2)
    assert judge_trial(world, "search-0001", rung=2, value=0.5).goes_on
    assert judge_trial(world, "search-0002", rung=2, value=0.9).goes_on
    assert judge_trial(world, "unknown", rung=2, value=0.9).goes_on
    assert world.trials.rungs == {}


PLOTS = tuple(
    sweep_results_key(SWEEP, f"plots/{name}")
    for name in ("history.png", "importance.png", "parallel-coordinates.png")
)


def test_the_plots_of_a_sweep_are_stored_and_may_be_drawn_again(world: SweepWorld) -> None:
    sweeping(world, hyperparameters={"lr": "0.1,0.2", "kind": "adam,sgd"})
    for number in range(1, 5):
        world.run_trial(number, loss=number / 10)
    world.finish()
    before = dict(world.blobs.bodies)
    plotted = world.plot()
    assert (plotted.plots, plotted.reason) == (PLOTS, "")
    for key in PLOTS:
        assert world.blobs.bodies[key].startswith(b"\x89PNG\r\n")
        assert world.blobs.content_types[key] == "image/png"
    stored = dict(world.blobs.bodies)
    assert world.plot() == plotted
    assert world.blobs.bodies == stored
    assert {key: stored[key] for key in before} == before


def test_without_a_metric_there_are_no_plots(world: SweepWorld) -> None:
    sweeping(world, metric="")
    world.run_trial(1)
    assert (world.plot().plots, world.plot().reason) == ((), "it has no metric")


def test_too_few_values_are_a_reason_and_no_error(world: SweepWorld) -> None:
    pruning(world)
    assert "no trial has been completed" in world.plot().reason
    world.run_trial(1, loss=0.5)
    assert "only one trial has been completed with a value of loss" in world.plot().reason
    for number in (2, 3, 4):
        world.start(number)
        judge_trial(world, f"search-{number:04d}", rung=2, value=0.4 + number)
    world.report(3, loss=0.7)
    world.end(3)
    assert world.settle(3).state is TrialState.PRUNED
    world.end(4, RunStatus.FAILED, "exit code 1")
    world.settle(4)
    assert "(trials so far: 1 completed, 1 running, 1 pruned, 1 failed)" in world.plot().reason
    assert not [key for key in world.blobs.bodies if "/plots/" in key]


def test_trials_that_are_pruned_or_failed_are_drawn_with_the_others(world: SweepWorld) -> None:
    pruning(world)
    for number, loss in ((1, 0.1), (2, 0.1), (3, 0.5)):
        world.start(number)
        judge_trial(world, f"search-{number:04d}", rung=2, value=loss)
        world.report(number, loss=loss)
        world.end(number)
        world.settle(number)
    world.start(4)
    world.end(4, RunStatus.FAILED, "exit code 1")
    world.settle(4)
    states = [world.trial(number).state for number in range(1, 5)]
    assert {TrialState.PRUNED, TrialState.FAILED} <= set(states)
    assert world.plot().plots == PLOTS


def test_a_deployment_without_matplotlib_says_so(
    world: SweepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeping(world)
    world.run_trial(1, loss=0.5)
    world.run_trial(2, loss=0.6)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SetupError, match="need matplotlib, which is missing; deploy again with"):
        world.plot()


def test_a_sweep_that_does_not_exist_has_no_plots(world: SweepWorld) -> None:
    with pytest.raises(NotFoundError, match="there is no sweep search"):
        world.plot()
