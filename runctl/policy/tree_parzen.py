"""The sampler `tpe`: Optuna's tree-structured Parzen estimator, over trials of the ledger.

Pure: the same trials, seed and number give the same suggestion. Optuna is imported when it is
needed, because only one function has it.
"""

import hashlib
import importlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from runctl.model.errors import SetupError
from runctl.model.hyperparameters import Choices, Domain, SearchSpace, Value
from runctl.model.sweep_options import SweepOptions
from runctl.model.trial import Trial, TrialState

# In a space with more points, a repetition is unlikely.
MAX_COMPARED = 10_000


def suggest(
    options: SweepOptions, trials: Sequence[Trial], *, group_id: str, number: int
) -> Mapping[str, Value]:
    """Return the hyperparameters of trial `number`, by the trials so far.

    Trials that still run count as bad ones, so that concurrent trials spread (the constant liar).
    Raises SetupError where Optuna is not installed.
    """
    optuna = _import()
    space = options.space
    seed = _seed(f"{options.seed or group_id}-{number}")
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    study = optuna.create_study(direction=options.direction, sampler=sampler)
    study.add_trials(frozen_trials(optuna, space, trials))
    suggested = study.ask(distributions(optuna, space)).params
    chosen = {name: _value(space.domains[name], suggested[name]) for name in space.domains}
    return _untried(space, chosen, trials, seed=seed)


def distributions(optuna: Any, space: SearchSpace) -> dict[str, Any]:
    """Return the distributions of Optuna for a space."""
    return {name: _distribution(optuna, domain) for name, domain in space.domains.items()}


def frozen_trials(optuna: Any, space: SearchSpace, trials: Sequence[Trial]) -> list[Any]:
    """Return trials as Optuna knows them.

    A trial whose hyperparameters are not of this space, which a newer version may have stored, is
    left out.
    """
    known = distributions(optuna, space)
    found = []
    for trial in trials:
        if trial.chosen.keys() != known.keys():
            continue
        state, value = _state_of(optuna, trial)
        params = {name: _parameter(space.domains[name], trial.chosen[name]) for name in known}
        if None in params.values():
            continue
        is_pruned = state == optuna.trial.TrialState.PRUNED and value is not None
        frozen = optuna.trial.create_trial(
            state=state,
            value=value,
            params=params,
            distributions=known,
            intermediate_values={trial.pruned_at or 0: value} if is_pruned else {},
            user_attrs={"trial": trial.number},
        )
        found.append(frozen)
    return found


def _import() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as exc:
        raise SetupError(
            f"the sampler tpe needs Optuna and numpy, which this deployment lacks ({exc}); deploy "
            "again with access to a package index, or use the sampler random"
        ) from exc
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distribution(optuna: Any, domain: Domain) -> Any:
    kinds = optuna.distributions
    if isinstance(domain, Choices):
        return kinds.CategoricalDistribution([value.text for value in domain.values])
    if domain.steps is not None:
        # The numbers of the steps, whose order Optuna can learn from.
        return kinds.IntDistribution(0, (domain.points or 1) - 1)
    if domain.is_integer:
        return kinds.IntDistribution(int(domain.low), int(domain.high), log=domain.is_log)
    return kinds.FloatDistribution(domain.low, domain.high, log=domain.is_log)


def _parameter(domain: Domain, value: Value) -> Any:
    """Return a value as the parameter of Optuna; None if it is not one of the domain."""
    if isinstance(domain, Choices):
        return value.text if value in domain.values else None
    if not isinstance(value.plain, int | float):
        return None
    if domain.steps is not None:
        steps = [domain.at(index).text for index in range(domain.points or 0)]
        return steps.index(value.text) if value.text in steps else None
    return value.plain if domain.low <= value.plain <= domain.high else None


def _value(domain: Domain, parameter: Any) -> Value:
    if isinstance(domain, Choices):
        return next(value for value in domain.values if value.text == parameter)
    return domain.at(parameter) if domain.steps is not None else domain.holding(parameter)


def _state_of(optuna: Any, trial: Trial) -> tuple[Any, float | None]:
    states = optuna.trial.TrialState
    if trial.state is TrialState.COMPLETED and trial.value is not None:
        return states.COMPLETE, trial.value
    if trial.state is TrialState.PRUNED:
        return states.PRUNED, trial.value
    if trial.state is TrialState.RUNNING:
        return states.RUNNING, None
    return states.FAIL, None


def _untried(
    space: SearchSpace, chosen: dict[str, Value], trials: Sequence[Trial], *, seed: int
) -> dict[str, Value]:
    """Return another point instead of one that was tried, as long as there are others."""
    tried = [dict(trial.chosen) for trial in trials]
    if chosen not in tried or space.points is None or space.points > MAX_COMPARED:
        return chosen
    others = [point for index in range(space.points) if (point := space.at(index)) not in tried]
    return random.Random(seed).choice(others) if others else chosen  # noqa: S311


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
