"""RecordTrial: records how a trial ended."""

from runctl.control.ports.sweeps import SweepServices
from runctl.control.results import RecordedTrial
from runctl.control.sweeps.ask_trial import read_sweep
from runctl.control.sweeps.trials import settle_trial
from runctl.model.errors import NotFoundError


def record_trial(
    services: SweepServices, group_id: str, number: int, *, cause: str = ""
) -> RecordedTrial:
    """Record the end of a trial whose execution is over; a repeated call returns the same.

    If its run goes on, because another execution has it, nothing is recorded.
    """
    _, request = read_sweep(services, group_id)
    trial = services.trials.find_trial(group_id, number)
    if trial is None:
        raise NotFoundError(f"the sweep {group_id} has no trial {number}")
    trial = settle_trial(services, request.sweep, trial, cause=cause)
    return RecordedTrial(
        group_id=group_id, number=number, state=trial.state, is_running=not trial.has_ended
    )
