"""The options that the commands which start something have in common."""

from typing import Annotated

import typer

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
