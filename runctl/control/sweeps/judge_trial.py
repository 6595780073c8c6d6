"""JudgeTrial: whether a trial goes on after a rung, asked by its agent."""

from collections.abc import Mapping
from typing import Any, Protocol

from runctl.control.instance_proof import identify_instance, problem_with_role
from runctl.control.ports.access import ProofServices
from runctl.control.ports.sweeps import SweepServices
from runctl.control.results import Judgement, RefusedQuestion
from runctl.model.caller import BadIdentityError
from runctl.policy.halving import goes_on


class JudgeServices(SweepServices, ProofServices, Protocol):
    """The services of the function that judges trials."""


def answer_trial(services: JudgeServices, event: Mapping[str, Any]) -> Judgement | RefusedQuestion:
    """Return whether the trial of the instance that asks goes on after a rung.

    An instance is answered about the run that the ledger says it has, and about no other: the first
    answer for a rung is recorded for good. An agent that is refused lets its trial go on.
    """
    run_id = str(event["run_id"])
    try:
        caller = identify_instance(services, event)
    except BadIdentityError as exc:
        return RefusedQuestion(reason=str(exc))
    # Trials have instances of their own, so no other role has to be looked up.
    problem = problem_with_role(services, caller) or _problem(services, caller.session, run_id)
    if problem:
        return RefusedQuestion(reason=problem)
    return judge_trial(services, run_id, rung=int(event["rung"]), value=float(event["value"]))


def _problem(services: SweepServices, instance_id: str, run_id: str) -> str:
    """Return why an instance may not ask about a run; empty if it may."""
    node = services.ledger.find_instance(instance_id)
    if node is None or node.run_id != run_id:
        return f"run_id: the ledger does not say that {instance_id} has an attempt of this run"
    run = services.ledger.find_run(run_id)
    if run is not None and run.fence > node.attempt:
        return f"run_id: attempt {run.fence} of {run_id} has taken over from this instance"
    return ""


def judge_trial(services: SweepServices, run_id: str, *, rung: int, value: float) -> Judgement:
    """Record the value of a trial at a rung, and return whether it goes on.

    The first answer for a rung is the answer for good: a trial that was pruned and then interrupted
    is pruned when it asks again. A run that is not a trial, or one that has ended, goes on.
    """
    run = services.ledger.find_run(run_id)
    trial = None if run is None else run.request.trial
    if run is None or trial is None or not trial.may_be_pruned or run.ended is not None:
        return Judgement(run_id=run_id, rung=rung, goes_on=True)
    group_id = run.request.group
    known = services.trials.find_rung(group_id, trial.number, rung=rung)
    if known is None:
        values = services.trials.rung_values(group_id, rung)
        others = [other for number, other in values.items() if number != trial.number]
        known = services.trials.record_rung(
            group_id,
            trial.number,
            rung=rung,
            value=value,
            goes_on=goes_on(
                value,
                others,
                direction=trial.direction,
                reduction_factor=trial.reduction_factor,
            ),
        )
    return Judgement(run_id=run_id, rung=rung, goes_on=known)
