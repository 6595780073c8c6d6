"""SuggestTrial: chooses the hyperparameters of a trial by what the sweep has learned."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from runctl.control.ports.sweeps import SweepServices
from runctl.control.results import SuggestedTrial
from runctl.control.sweeps.ask_trial import may_start, read_sweep
from runctl.model.hyperparameters import Value
from runctl.model.sweep_options import SweepOptions
from runctl.model.trial import Trial, trial_run_id


class Sampler(Protocol):
    """Chooses hyperparameters, by the trials so far; the same for the same arguments."""

    def __call__(
        self, options: SweepOptions, trials: Sequence[Trial], *, group_id: str, number: int
    ) -> Mapping[str, Value]:
        """Return the hyperparameters of trial `number`."""
        ...


def suggest_trial(
    services: SweepServices, group_id: str, number: int, *, sampler: Sampler
) -> SuggestedTrial:
    """Record a trial with the hyperparameters that the sampler suggests, unless it has some.

    The ledger alone knows the trials: nothing is kept between two calls, and a repeated call
    changes nothing.
    """
    group, request = read_sweep(services, group_id)
    if services.trials.find_trial(group_id, number) is None and may_start(services, group, request):
        trials = services.trials.list_trials(group_id)
        services.trials.create_trial(
            Trial(
                group_id=group_id,
                number=number,
                chosen=sampler(request.sweep, trials, group_id=group_id, number=number),
                started_at=services.clock.now(),
                execution=trial_run_id(group_id, number),
            )
        )
    return SuggestedTrial(group_id=group_id, number=number)
