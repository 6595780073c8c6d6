"""JudgeTrial: whether a trial goes on after a rung, asked by its agent."""

from runctl.control.ports.sweeps import SweepServices
from runctl.control.results import Judgement
from runctl.policy.halving import goes_on


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
