"""A world with sweeps: trials in memory, and executions that end as a test says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from runctl.control.execution_start import ExecutionStart
from runctl.control.sweeps.ask_trial import ask_trial
from runctl.control.sweeps.finish_sweep import finish_sweep
from runctl.control.sweeps.plot_sweep import plot_sweep
from runctl.control.sweeps.prepare_sweep import prepare_sweep
from runctl.control.sweeps.record_trial import record_trial
from runctl.model.identity import sweep_results_key
from runctl.model.node import NodeId, NodeProgress
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.run import Launched, Run
from runctl.model.trial import UNFINISHED, Trial, TrialEnd, TrialState
from tests.control.fakes import START, FakeWorkflow, World
from tests.control.steps import prepare_run

SWEEP = "search"
REQUEST: dict[str, Any] = {
    "command": ["train"],
    "sweep": {
        "hyperparameters": {"lr": "0.001,0.01,0.1", "size": "32,64,128"},
        "metric": "loss",
        "instances": 5,
    },
}


class MemoryTrials:
    """Behaves like DynamoTrialLedger; tests/aws/test_trial_ledger.py compares them."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, int], Trial] = {}
        self.rungs: dict[tuple[str, int, int], tuple[float, bool]] = {}

    def create_trial(self, trial: Trial) -> Trial:
        return self.items.setdefault((trial.group_id, trial.number), trial)

    def find_trial(self, group_id: str, number: int) -> Trial | None:
        return self.items.get((group_id, number))

    def list_trials(self, group_id: str) -> list[Trial]:
        mine = [trial for trial in self.items.values() if trial.group_id == group_id]
        return sorted(mine, key=lambda trial: trial.number)

    def restart_trial(self, trial: Trial, *, execution: str) -> Trial:
        held = self.items[trial.group_id, trial.number]
        if held.state in UNFINISHED and held.execution == trial.execution:
            self.items[trial.group_id, trial.number] = replace(
                held, state=TrialState.RUNNING, execution=execution, reason="", ended_at=None
            )
        return self.items[trial.group_id, trial.number]

    def end_trial(self, trial: Trial, *, end: TrialEnd, now: datetime) -> Trial:
        held = self.items[trial.group_id, trial.number]
        if held.state is TrialState.RUNNING and held.execution == trial.execution:
            self.items[trial.group_id, trial.number] = replace(
                held,
                state=end.state,
                value=held.value if end.value is None else end.value,
                reason=end.reason,
                ended_at=now,
            )
        return self.items[trial.group_id, trial.number]

    def rung_values(self, group_id: str, rung: int) -> Mapping[int, float]:
        return {
            number: value
            for (group, at, number), (value, _) in self.rungs.items()
            if (group, at) == (group_id, rung)
        }

    def record_rung(
        self, group_id: str, number: int, *, rung: int, value: float, goes_on: bool
    ) -> bool:
        _, decided = self.rungs.setdefault((group_id, rung, number), (value, goes_on))
        held = self.items.get((group_id, number))
        if not decided and held is not None and held.pruned_at is None:
            self.items[group_id, number] = replace(held, pruned_at=rung)
        return decided

    def find_rung(self, group_id: str, number: int, *, rung: int) -> bool | None:
        found = self.rungs.get((group_id, rung, number))
        return None if found is None else found[1]


@dataclass(frozen=True)
class FakeExecution:
    status: str
    error: str = ""
    cause: str = ""

    @property
    def is_running(self) -> bool:
        return self.status == "RUNNING"


class SweepWorkflow(FakeWorkflow):
    def __init__(self) -> None:
        super().__init__()
        self.causes: dict[str, str] = {}

    def execution_arn(self, name: str) -> str:
        return f"arn:{name}"

    def find_execution(self, execution_arn: str) -> FakeExecution | None:
        status = self.status_of(execution_arn)
        return FakeExecution(status, cause=self.causes.get(execution_arn, "")) if status else None


class Files:
    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.content_types: dict[str, str] = {}

    def put(self, key: str, body: bytes, *, content_type: str = "") -> None:
        self.bodies[key] = body
        self.content_types[key] = content_type


class SweepWorld(World):
    """A world whose trials' runs are started and ended by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.workflow: SweepWorkflow = SweepWorkflow()
        self.trials = MemoryTrials()
        self.blobs = Files()
        self.judge_function = "runctl-judge_trial"

    def prepare(self, document: Any = None, name: str = SWEEP) -> Any:
        execution = ExecutionStart(arn=f"arn:sweep:{name}", name=name, started_at=START)
        self.workflow.running.add(execution.arn)
        return prepare_sweep(self, execution, REQUEST if document is None else document)

    def ask(self, number: int) -> Any:
        return ask_trial(self, SWEEP, number)

    def settle(self, number: int, cause: str = "") -> Any:
        return record_trial(self, SWEEP, number, cause=cause)

    def finish(self, name: str = SWEEP) -> Any:
        return finish_sweep(self, SWEEP, execution_arn=f"arn:sweep:{name}")

    def plot(self) -> Any:
        return plot_sweep(self, SWEEP)

    def start(self, number: int) -> Run:
        """Start the run of a trial, as its execution does."""
        asked = self.ask(number)
        arn = f"arn:{asked.execution}"
        self.workflow.running.add(arn)
        prepare_run(
            self,
            ExecutionStart(arn=arn, name=asked.execution, started_at=START),
            json.loads(json.dumps(asked.request)),
        )
        run_id = self.trial(number).run_id
        attempt = len(self.ledger.attempts(run_id)) + 1
        self.ledger.open_attempt(
            run_id, attempt, launch_try=1, source=Launched(), now=self.clock.now()
        )
        return self.ledger.find_run(run_id)

    def report(self, number: int, **metrics: float) -> None:
        run_id = self.trial(number).run_id
        attempt = self.ledger.attempts(run_id)[-1].number
        self.ledger.record_progress(
            NodeId(run_id, attempt, 0), NodeProgress(metrics=metrics), now=self.clock.now()
        )

    def end(self, number: int, status: RunStatus = RunStatus.COMPLETED, reason: str = "") -> None:
        """End the run of a trial."""
        run = self.ledger.find_run(self.trial(number).run_id)
        attempt = self.ledger.attempts(run.run_id)[-1].number
        outcome = Outcome(kind=OutcomeKind(status.value), reason=reason)
        self.ledger.end_attempt(run.run_id, attempt, outcome=outcome, now=self.clock.now())
        self.ledger.end_run(run.run_id, status=status, reason=reason, now=self.clock.now())
        self.over(run.execution, "SUCCEEDED" if status is not RunStatus.FAILED else "FAILED")

    def over(self, execution: str, status: str, cause: str = "") -> None:
        """End an execution."""
        arn = f"arn:{execution}"
        self.workflow.running.discard(arn)
        self.workflow.ended[arn] = status
        self.workflow.causes[arn] = cause

    def run_trial(self, number: int, **metrics: float) -> Any:
        """Run a trial to its end."""
        self.start(number)
        self.report(number, **metrics)
        self.end(number)
        return self.settle(number)

    def trial(self, number: int) -> Trial:
        trial = self.trials.find_trial(SWEEP, number)
        assert trial is not None
        return trial

    def results(self) -> Any:
        return json.loads(self.blobs.bodies[sweep_results_key(SWEEP, "results.json")])
