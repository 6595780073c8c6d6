"""The hyperparameters of a trial by its number, for samplers that learn nothing. Pure."""

import random

from runctl.model.hyperparameters import SearchSpace, Value
from runctl.model.sweep_options import GRID, SweepOptions

# Up to this many points are drawn without repetition.
MAX_DISTINCT = 10**15


def choose(options: SweepOptions, *, group_id: str, number: int) -> dict[str, Value]:
    """Return the hyperparameters of a trial; the same for every call with the same arguments.

    A grid is tried in the order of its points. Random points follow from the seed, and those of a
    space that ends are all different.
    """
    space = options.space
    points = space.points
    if options.sampler == GRID:
        return space.at(number - 1)
    seed = str(options.seed or group_id)
    if points is not None and points <= MAX_DISTINCT:
        return space.at(random.Random(seed).sample(range(points), options.trials)[number - 1])  # noqa: S311
    return draw(space, seed=seed, number=number)


def draw(space: SearchSpace, *, seed: str, number: int) -> dict[str, Value]:
    """Return a random point of a space, which follows from the seed and the number."""
    source = random.Random(f"{seed}-{number}")  # noqa: S311 - repeatable, and no secret
    return {name: domain.draw(source.random()) for name, domain in space.domains.items()}
