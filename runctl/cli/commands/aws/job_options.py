"""The options that the commands which start something have in common."""

from typing import Annotated

import typer

from runctl.model.errors import InvalidRequestError, Problem

SPOT = "spot"

Project = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        help="The folder to pack (default: the nearest with .runctl.toml or .git).",
    ),
]

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the request and the package; start nothing.")
]

LendFor = Annotated[
    str,
    typer.Option(
        "--lend-for",
        metavar="DURATION",
        help="With an existing instance: for how long runs may start on it. This one may finish.",
    ),
]

Spot = Annotated[bool, typer.Option("--spot", help="Use Spot Instances only: --market spot.")]

UseDocker = Annotated[
    bool,
    typer.Option(
        "--use-docker",
        help="Require a container: the project must have a Dockerfile.",
        rich_help_panel="Docker",
    ),
]

NoDocker = Annotated[
    bool,
    typer.Option(
        "--no-docker",
        help="Run on the machine itself, although the project has a Dockerfile.",
        rich_help_panel="Docker",
    ),
]


def market_of(market: str | None, *, spot: bool) -> str | None:
    """Return the market that --market and --spot choose, None if neither was given.

    Raises InvalidRequestError if they contradict each other.
    """
    if not spot:
        return market
    if market not in {None, SPOT}:
        message = f"contradicts --market {market}; give one of them"
        raise InvalidRequestError((Problem("--spot", message),))
    return SPOT
