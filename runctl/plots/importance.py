"""The importance of hyperparameters: how much of the differences between trials each explains.

The measure is the effect size of the Kruskal-Wallis test, (H - k + 1) / (n - k) for n trials in k
groups: M. Tomczak and E. Tomczak, "The need to report effect size estimates revisited", Trends in
Sport Sciences 21(1), 2014; W. H. Kruskal and W. A. Wallis, "Use of ranks in one-criterion variance
analysis", Journal of the American Statistical Association 47(260), 1952. It is the share of the
variance of the trials' ranks that lies between the groups, less what chance alone would explain.
Ranks keep a few diverged trials from deciding everything. The groups are the trials with the same
value or, of a number with too many values for that, with values of the same quantile.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runctl.model.hyperparameters import Plain
from runctl.model.result_metrics import is_number

# With fewer, chance explains nearly everything.
MIN_TRIALS = 4
# Groups have at least two trials on average, and quantiles at least three where possible.
_TRIALS_PER_VALUE = 2
_TRIALS_PER_QUANTILE = 3
_MAX_QUANTILES = 5


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much of the differences a hyperparameter explains alone, from 0 to 1.

    `explained` is None if that cannot be estimated, for the reason `problem`.
    """

    name: str
    explained: float | None
    problem: str = ""

    def as_document(self) -> dict[str, Any]:
        """Return the importance as JSON."""
        return {"name": self.name, "explained": self.explained, "problem": self.problem or None}


def importance_of(name: str, chosen: Sequence[Plain], values: Sequence[float]) -> Importance:
    """Return the importance of a hyperparameter by what was chosen in each trial, and its value."""
    problem = ""
    if len({kind_and_value(plain) for plain in chosen}) < 2:
        problem = "all trials have the same value"
    elif len(values) < MIN_TRIALS:
        problem = f"needs {MIN_TRIALS} completed trials"
    elif len(set(values)) < 2:
        problem = "all trials are equally good"
    if problem:
        return Importance(name=name, explained=None, problem=problem)
    groups = _groups(chosen)
    if len(set(groups)) >= len(values):
        return Importance(name=name, explained=None, problem="no two trials have the same value")
    return Importance(name=name, explained=explained_by(groups, values))


def explained_by(groups: Sequence[Hashable], values: Sequence[float]) -> float:
    """Return the share of the variance of ranks between groups, corrected for chance.

    There are fewer groups than values, and not all values are equal.
    """
    ranks = _ranks(values)
    members: Mapping[Hashable, list[float]] = defaultdict(list)
    for group, value in zip(groups, values, strict=True):
        members[group].append(ranks[value])
    mean = (len(values) + 1) / 2
    total = sum((ranks[value] - mean) ** 2 for value in values)
    between = sum(len(held) * (sum(held) / len(held) - mean) ** 2 for held in members.values())
    unexplained = (1 - between / total) * (len(values) - 1) / (len(values) - len(members))
    return min(max(1 - unexplained, 0.0), 1.0)


def kind_and_value(plain: Plain) -> tuple[bool, Plain]:
    """Return a key that differs for True and 1, which are equal in Python."""
    return isinstance(plain, bool), plain


def _groups(chosen: Sequence[Plain]) -> list[Hashable]:
    """Return the group of each trial: its value, or the quantile of that."""
    keys = [kind_and_value(plain) for plain in chosen]
    if len(set(keys)) * _TRIALS_PER_VALUE <= len(keys):
        return [*keys]
    numbers = [float(plain) for plain in chosen if is_number(plain)]
    if len(numbers) < len(chosen):
        return [*keys]
    ranks = _ranks(numbers)
    quantiles = max(2, min(_MAX_QUANTILES, len(numbers) // _TRIALS_PER_QUANTILE))
    return [int((ranks[number] - 0.5) * quantiles / len(numbers)) for number in numbers]


def _ranks(values: Sequence[float]) -> dict[float, float]:
    """Return the rank of each value, from 1; equal values have the mean of their ranks."""
    ranks, before = {}, 0
    for value, count in sorted(Counter(values).items()):
        ranks[value] = before + (count + 1) / 2
        before += count
    return ranks
