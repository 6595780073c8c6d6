"""The fields of a hyperparameter sweep: what it tries, and how."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runctl.model.hyperparameters import (
    MAX_PARAMETERS,
    Domain,
    SearchSpace,
    SyntaxProblemError,
    check_name,
    read_domain,
)
from runctl.model.request_checks import json_type
from runctl.model.request_fields import (
    Field,
    Option,
    Syntax,
    choice,
    entry,
    instant,
    optional_number,
    text,
    whole_number,
)
from runctl.model.trial_options import (
    DIRECTIONS,
    MAX_STEP,
    MAX_TRIALS,
    MAXIMIZE,
    check_metric,
)

GRID, RANDOM, TPE = "grid", "random", "tpe"
SAMPLERS = (GRID, RANDOM, TPE)
NO_PRUNER, ASHA = "none", "asha"
PRUNERS = (NO_PRUNER, ASHA)
# What Optuna's sampler does with more trials takes longer than a function may.
MAX_TPE_TRIALS = 1000
MAX_INSTANCES = 1000
UNDERSCORES, HYPHENS, ASSIGNMENTS, NO_ARGUMENTS = "underscores", "hyphens", "assignments", "none"
ARGUMENT_STYLES = (UNDERSCORES, HYPHENS, ASSIGNMENTS, NO_ARGUMENTS)


def check_hyperparameters(value: Any) -> str | None:
    """Check the hyperparameters and all of their values."""
    if not isinstance(value, Mapping):
        return f"must be an object of names and values, not {json_type(value)}"
    if not value:
        return "a grid of 0 points; name hyperparameters and their values, such as lr:0.01,0.1"
    if len(value) > MAX_PARAMETERS:
        return f"{len(value)} hyperparameters exceed the limit of {MAX_PARAMETERS}"
    for name, given in value.items():
        if problem := check_name(name):
            return problem
        try:
            read_domain(given)
        except SyntaxProblemError as exc:
            return f"{name}: {exc}"
    return None


def _read(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(json_type(value))
    return dict(value)


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What a sweep tries, in which order, how many at once, and until when.

    `hyperparameters` are as they were given; `space` is what they mean.
    """

    hyperparameters: Mapping[str, Any] = entry(
        {},
        Field(
            schema={
                "type": "object",
                "minProperties": 1,
                "maxProperties": MAX_PARAMETERS,
                "additionalProperties": {
                    "oneOf": [
                        {"type": "string"},
                        {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": ["string", "number", "boolean"]},
                        },
                    ]
                },
                "description": "The values of each hyperparameter: a list, as text "
                "(`0.001,0.01,0.1`) or in JSON, or a range as text: `2..8`, `0.0..0.5`, "
                "`1e-5..1e-1:log`, and with a number of steps for a grid, `1e-5..1e-1:log:5`.",
            },
            check=check_hyperparameters,
            read=_read,
            write=dict,
        ),
    )
    sampler: str = choice(
        "How the values of a trial are chosen: `grid` tries every combination, `random` draws, "
        "and `tpe` learns from the trials that have ended.",
        choices=SAMPLERS,
        noun="sampler",
        default=GRID,
        option=Option("--sampler", "grid, random or tpe (default: grid).", "SAMPLER"),
    )
    pruner: str = choice(
        "Whether trials that do worse than others at the same step end early.",
        choices=PRUNERS,
        noun="pruner",
        default=NO_PRUNER,
        option=Option("--pruner", "none or asha (default: none).", "PRUNER"),
    )
    metric: str = text(
        "The metric by which trials are compared, as the script reports it in a line of "
        "`RUNCTL_METRICS_FILE` or in `metrics.json`. `tpe` and `asha` need it.",
        check=check_metric,
        option=Option("--metric", "The metric to compare trials by, as reported.", "NAME"),
    )
    direction: str = choice(
        "Whether a lower or a higher value of the metric is better.",
        choices=DIRECTIONS,
        noun="direction",
        default=DIRECTIONS[0],
        option=Option("--direction", "minimize or maximize (default: minimize).", "DIRECTION"),
    )
    instances: int = whole_number(
        "Maximum number of trials, and so of instances, at the same time.",
        least=1,
        most=MAX_INSTANCES,
        default=1,
        option=Option(
            "--instances", "Maximum number of instances at once (default: 1).", "N", Syntax.NUMBER
        ),
    )
    max_trials: int = optional_number(
        f"Maximum number of trials, up to {MAX_TRIALS} ({MAX_TPE_TRIALS} with `tpe`). A range "
        "without steps needs it.",
        least=1,
        most=MAX_TRIALS,
        option=Option("--max-trials", "Maximum number of trials.", "N", Syntax.NUMBER),
    )
    seed: int = optional_number(
        "Number from which all random choices follow. Default: one that follows from the sweep's "
        "name.",
        least=1,
        most=2**32 - 1,
        option=Option("--seed", "Number from which random choices follow.", "N", Syntax.NUMBER),
    )
    deadline: datetime | None = instant(
        "No trial is started, and no attempt of a trial launched, after this instant.",
        option=Option(
            "--deadline", "Start no trial after this instant: 2030-01-31T18:00:00Z.", "INSTANT"
        ),
    )
    arguments: str = choice(
        "How hyperparameters are passed to the script: `underscores` as `--learning_rate 0.1`, "
        "`hyphens` as `--learning-rate 0.1`, `assignments` as `learning_rate=0.1`, or `none`, "
        "which leaves only RUNCTL_HYPERPARAMETERS.",
        choices=ARGUMENT_STYLES,
        noun="style",
        default=UNDERSCORES,
        option=Option(
            "--arguments",
            "How the script gets hyperparameters: underscores (--learning_rate 0.1, default), "
            "hyphens (--learning-rate 0.1), assignments (learning_rate=0.1) or none.",
            "STYLE",
        ),
    )
    first_rung: int = whole_number(
        "The step at which `asha` first compares trials.",
        least=1,
        most=MAX_STEP,
        default=1,
        option=Option(
            "--first-rung", "The step at which asha first compares trials.", "STEP", Syntax.NUMBER
        ),
    )
    reduction_factor: int = whole_number(
        "`asha` continues one of this many trials at each rung, and each rung is at this many "
        "times the step of the one before.",
        least=2,
        most=100,
        default=3,
        option=Option("--reduction-factor", "asha continues one in N trials.", "N", Syntax.NUMBER),
    )

    @property
    def space(self) -> SearchSpace:
        """The values of all hyperparameters; SyntaxProblemError if they were not checked."""
        domains: dict[str, Domain] = {
            name: read_domain(given) for name, given in self.hyperparameters.items()
        }
        return SearchSpace(domains)

    @property
    def trials(self) -> int:
        """The number of trials, if nothing ends the sweep before."""
        points = self.space.points
        limits = [self.max_trials, points or 0, MAX_TPE_TRIALS if self.sampler == TPE else 0]
        return min([limit for limit in limits if limit], default=0)


def contradiction(options: SweepOptions) -> tuple[str, str] | None:
    """Return the field and the problem of values that are valid, but not together."""
    return _problem_with_metric(options) or _problem_with_size(options)


def _problem_with_metric(options: SweepOptions) -> tuple[str, str] | None:
    if options.metric:
        return None
    for chosen, value in ((options.sampler, TPE), (options.pruner, ASHA)):
        if chosen == value:
            return (
                "metric",
                f"missing; {value} needs a metric, by its name as the script reports it",
            )
    if options.direction == MAXIMIZE:
        return "metric", f"missing; name what to {MAXIMIZE}, as the script reports it"
    return None


def _problem_with_size(options: SweepOptions) -> tuple[str, str] | None:
    space = options.space
    points = space.points
    if options.sampler == TPE and options.max_trials > MAX_TPE_TRIALS:
        return "max_trials", (
            f"{options.max_trials} trials exceed the limit of {MAX_TPE_TRIALS} of the sampler tpe; "
            "give fewer, or use the sampler random"
        )
    if options.sampler == GRID and space.without_grid:
        name = space.without_grid[0]
        return "hyperparameters", (
            f"{name}: {options.hyperparameters[name]} has no grid; append a number of steps, such "
            f"as {options.hyperparameters[name]}:5, or use the sampler random or tpe"
        )
    if points is None and not options.max_trials:
        return "max_trials", (
            f"missing; {space.without_grid[0]} has no end of values, so give the number of trials"
        )
    if points is not None and points > MAX_TRIALS and not options.max_trials:
        what = "a grid" if options.sampler == GRID else "a space"
        return "hyperparameters", (
            f"{what} of {points:,} points exceeds the limit of {MAX_TRIALS:,} trials; give fewer "
            "values, or the sampler random with max_trials (--sampler random --max-trials N)"
        )
    return None
