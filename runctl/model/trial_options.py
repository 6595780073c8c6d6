"""The fields of a run that is a trial of a hyperparameter sweep."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runctl.model.hyperparameters import Plain, check_name
from runctl.model.request_checks import json_type
from runctl.model.request_fields import Field, choice, entry, optional_number, text, whole_number

MAX_TRIALS = 10_000
MAX_METRIC_NAME = 200
MAXIMIZE = "maximize"
DIRECTIONS = ("minimize", MAXIMIZE)
MAX_STEP = 1_000_000_000


def check_metric(value: Any) -> str | None:
    """Check the name of a metric, which may be empty."""
    if isinstance(value, str) and len(value) <= MAX_METRIC_NAME and value.isprintable():
        return None
    return f"{value!r} is not the name of a metric; use at most {MAX_METRIC_NAME} characters"


def check_chosen(value: Any) -> str | None:
    """Check the hyperparameters of a trial."""
    if not isinstance(value, Mapping):
        return f"must be an object of names and values, not {json_type(value)}"
    for name, plain in value.items():
        if problem := check_name(name):
            return problem
        if not isinstance(plain, bool | int | float | str):
            return f"{name} must be a string, a number or a boolean, not {json_type(plain)}"
    return None


def _read_chosen(value: Any) -> dict[str, Plain]:
    if check_chosen(value):
        raise TypeError(json_type(value))
    return dict(value)


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """What makes a run a trial; a run with the number 0 is not one.

    The agent asks `judge` whether to go on whenever the metric reaches the next rung: `first_rung`,
    and each `reduction_factor` times the one before. Without `first_rung`, nothing is pruned.
    """

    number: int = optional_number(
        "The number of the trial in its sweep; the script finds it in `RUNCTL_TRIAL`.",
        least=1,
        most=MAX_TRIALS,
    )
    hyperparameters: Mapping[str, Plain] = entry(
        {},
        Field(
            schema={
                "type": "object",
                "additionalProperties": {"type": ["string", "number", "boolean"]},
                "default": {},
                "description": "The hyperparameters of the trial; the script finds them as JSON in "
                "`RUNCTL_HYPERPARAMETERS`.",
            },
            check=check_chosen,
            read=_read_chosen,
            write=dict,
        ),
    )
    metric: str = text(
        "The metric by which trials are compared, as the script reports it.", check=check_metric
    )
    direction: str = choice(
        "Whether a lower or a higher value of the metric is better.",
        choices=DIRECTIONS,
        noun="direction",
        default=DIRECTIONS[0],
        unknown=DIRECTIONS[0],
    )
    first_rung: int = optional_number(
        "The step of the first rung, at which the trial may be pruned.", least=1, most=MAX_STEP
    )
    judge: str = text(
        "The function that decides at each rung whether the trial goes on.", check=check_metric
    )
    reduction_factor: int = whole_number(
        "Each rung is at this many times the step of the one before.",
        least=2,
        most=100,
        default=3,
    )

    @property
    def is_trial(self) -> bool:
        """Whether the run is a trial."""
        return self.number > 0

    @property
    def may_be_pruned(self) -> bool:
        """Whether the trial may end before its script does."""
        return self.is_trial and bool(self.metric and self.judge) and self.first_rung > 0
