"""What the tasks of the state machines return, to test every state with.

The documents of functions are those of `runctl.control.results`, so that a changed key shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runctl.control.results import (
    CleanUpResult,
    CleanUpStatus,
    EndedAttempt,
    ImageBuild,
    LaunchedAttempt,
    NextStep,
    PlannedShards,
    PlottedSweep,
    PreparedRun,
    PreparedSweep,
    ProcessingResult,
    RecordedImage,
    RecordedTrial,
    Result,
    RunResult,
    SkippedTrial,
    SuggestedTrial,
    SweepResult,
    TrainReport,
    TrialToRun,
    UnbuiltImage,
    UnlaunchedAttempt,
)
from runctl.model.decision import DecisionKind
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.trial import TrialState

_RUN = "verify"
_ONE: Mapping[str, Any] = {"run_id": _RUN, "attempt": 1}
_TRIAL: Mapping[str, Any] = {"group_id": _RUN, "number": 1}
_BUILD = ImageBuild(
    tag="verify",
    project="verify",
    variables=({"Name": "A", "Value": "B"},),
    log_group="verify",
    log_stream="verify",
)
_LAUNCHED_NOTHING = Outcome(kind=OutcomeKind.NO_CAPACITY, reason="no pool had capacity")
_COMPLETED = Outcome(kind=OutcomeKind.COMPLETED, step=1, save=1)


def _run_result(status: RunStatus) -> RunResult:
    return RunResult(
        run_id=_RUN,
        status=status,
        reason="the trainer ended",
        step=1,
        save=1,
        attempts=1,
        checkpoint="runs/verify/checkpoints/1.json",
        outputs="s3://verify/outputs",
    )


def _next(decision: DecisionKind, **fields: Any) -> NextStep:
    return NextStep(
        **{
            "run_id": _RUN,
            "attempt": 2,
            "wait_seconds": 0,
            "reason": "the attempt was interrupted",
            "decision": decision,
            **fields,
        }
    )


_BATCH: Mapping[str, Any] = {
    "run_id": "verify-1",
    "execution": "verify-1",
    "continues": False,
    "first": 0,
    "count": 1,
}
_CONTINUED: Mapping[str, Any] = {**_BATCH, "execution": "verify-1-r2", "continues": True}
# What each function may return.
_FUNCTIONS: Mapping[str, Sequence[Result]] = {
    "prepare_run": (PreparedRun(**_ONE), PreparedRun(**_ONE, build=_BUILD)),
    "record_image": (
        RecordedImage(run_id=_RUN),
        UnbuiltImage(run_id=_RUN, status=RunStatus.FAILED, reason="the build failed"),
    ),
    "launch_instances": (
        LaunchedAttempt(**_ONE, heartbeat_seconds=240),
        UnlaunchedAttempt(**_ONE, outcome=_LAUNCHED_NOTHING),
    ),
    "train": (TrainReport(outcome=_COMPLETED),),
    "confirm_checkpoint": (
        EndedAttempt(**_ONE, outcome=_COMPLETED, step=1, save=1, checkpoint="1.json"),
        EndedAttempt(**_ONE, outcome=_LAUNCHED_NOTHING, step=None, save=None, checkpoint=None),
    ),
    "decide_next": (
        _next(DecisionKind.RELAUNCH),
        _next(DecisionKind.RELAUNCH, wait_seconds=1),
        _next(DecisionKind.FINISH, status=RunStatus.COMPLETED),
        _next(DecisionKind.GIVE_UP, status=RunStatus.FAILED),
        _next(DecisionKind.RELAUNCH, continue_as="verify-2"),
    ),
    "finish_run": (_run_result(RunStatus.COMPLETED), _run_result(RunStatus.FAILED)),
    "clean_up": (CleanUpResult(status=CleanUpStatus.CLEANED, run_id=_RUN),),
    "prepare_sweep": (
        PreparedSweep(group_id=_RUN, sampler="tpe", instances=1, numbers=(1, 2)),
        PreparedSweep(group_id=_RUN, sampler="random", instances=1, numbers=(1,)),
    ),
    "suggest_trial": (SuggestedTrial(**_TRIAL),),
    "ask_trial": (
        TrialToRun(**_TRIAL, execution="verify-1", request={"script": "train.py"}),
        SkippedTrial(**_TRIAL),
    ),
    "record_trial": (
        RecordedTrial(**_TRIAL, state=TrialState.COMPLETED, is_running=False),
        RecordedTrial(**_TRIAL, state=TrialState.RUNNING, is_running=True),
    ),
    "finish_sweep": tuple(
        SweepResult(group_id=_RUN, status=status, reason="", trials=1, ended=1)
        for status in (RunStatus.COMPLETED, RunStatus.FAILED)
    ),
    "plot_sweep": (
        PlottedSweep(group_id=_RUN, plots=("groups/verify/plots/history.png",)),
        PlottedSweep(group_id=_RUN, reason="it has no metric"),
    ),
    "plan_shards": (
        PlannedShards(
            group_id=_RUN,
            instances=1,
            batches=(dict(_BATCH), dict(_CONTINUED)),
            request={"script": "process.py", "process": {}},
        ),
    ),
    "finish_processing": tuple(
        ProcessingResult(
            group_id=_RUN, status=status, reason="", outputs="s3://verify/outputs", shards=1
        )
        for status in (RunStatus.COMPLETED, RunStatus.FAILED)
    ),
}
# What an execution is started with: a request, or the name of a run that is continued.
REQUEST: Mapping[str, Any] = {"script": "train.py"}


@dataclass(frozen=True, kw_only=True)
class Child:
    """How a state of a Map's processor is entered."""

    data: Mapping[str, Any]


# The inputs of the children of the Maps, as their ItemSelectors make them.
CHILDREN: Mapping[str, Sequence[Child]] = {
    "Trials": tuple(
        Child(data={"group_id": _RUN, "sampler": sampler, "number": 1})
        for sampler in ("tpe", "random")
    ),
    "Batches": tuple(
        Child(data={"request": {"script": "process.py", "process": {}}, **batch})
        for batch in (_BATCH, _CONTINUED)
    ),
}


def results_of(state: Mapping[str, Any], *, prefix: str) -> list[Any] | None:
    """Return what a Task or Map may return; None if that is not known.

    `prefix` is what the names of the deployment's functions begin with.
    """
    if state["Type"] == "Map":
        return [[1]]
    resource = str(state.get("Resource", ""))
    if "codebuild:startBuild" in resource:
        return [{"Build": {"Id": "verify:1"}}]
    if "states:startExecution" in resource:
        return [{"Output": result.as_document()} for result in _FUNCTIONS["finish_run"]]
    name = str((state.get("Arguments") or {}).get("FunctionName", ""))
    function = name.rpartition(":")[2].removeprefix(prefix)
    if "lambda:invoke" not in resource or function not in _FUNCTIONS:
        return None
    documents = [result.as_document() for result in _FUNCTIONS[function]]
    if resource.endswith(".waitForTaskToken"):
        return documents
    return [{"Payload": document, "StatusCode": 200} for document in documents]
