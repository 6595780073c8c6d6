"""The invocation: the global options of one call, and how commands get them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.main import get_command

from runctl.cli.display.help_page import Command
from runctl.cli.display.output import Output

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.cli.project.settings import Settings

PANEL = "Global options"

Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=PANEL),
]
Local = Annotated[
    bool,
    typer.Option(
        "--local",
        envvar="RUNCTL_LOCAL",
        help="Use the local cloud (start it with `runctl local up`).",
        rich_help_panel=PANEL,
    ),
]
Profile = Annotated[
    str,
    typer.Option("--profile", metavar="NAME", help="AWS profile to use.", rich_help_panel=PANEL),
]
Region = Annotated[
    str,
    typer.Option("--region", metavar="NAME", help="AWS region to use.", rich_help_panel=PANEL),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print the traceback of an error.", rich_help_panel=PANEL),
]


@dataclass
class Invocation:
    """The global options, whether they precede or follow the command.

    `may_be_json`: --json is among the words, as runctl's option or as an argument of the script.
    """

    output: Output = field(default_factory=Output)
    profile: str = ""
    region: str = ""
    verbose: bool = False
    may_be_json: bool = False
    has_warned: bool = False

    @property
    def local(self) -> bool:
        """Whether the command is about the local cloud."""
        return self.output.is_local

    @local.setter
    def local(self, value: bool) -> None:
        self.output.is_local = value

    def take(self, *, json: bool, local: bool, profile: str, region: str, verbose: bool) -> None:
        """Add options that precede or follow the command."""
        self.output.as_json |= json
        self.local |= local
        self.verbose |= verbose
        self.profile = profile or self.profile
        self.region = region or self.region

    def settings(self, folder: Path | None = None, *, is_named: bool = False) -> Settings:
        """Return the settings for a folder; `is_named`: the user named it explicitly."""
        from runctl.cli.project.folder import SETTINGS_FILE, look_upwards
        from runctl.cli.project.settings import read_settings

        folder = folder or Path.cwd()
        self.warn(look_upwards(folder, is_named=is_named).warning({SETTINGS_FILE}))
        return read_settings(folder, is_named=is_named)

    def find_project(self) -> Path:
        """Return the project that the current folder belongs to."""
        from runctl.cli.project.folder import REPOSITORY, SETTINGS_FILE, look_upwards

        here = Path.cwd()
        found = look_upwards(here)
        self.warn(found.warning({SETTINGS_FILE, REPOSITORY}))
        return found.project or here

    def warn(self, text: str) -> None:
        """Print a warning, once per command: a second one would be about the same folder."""
        if text and not self.has_warned:
            self.has_warned = True
            self.output.note(f"warning: {text}", style="yellow")

    @cached_property
    def cloud(self) -> Cloud:
        """The deployment, looked up on first use."""
        return self.connect(self.settings())

    def connect(self, settings: Settings) -> Cloud:
        """Return the deployment; options override the environment, which overrides settings."""
        from runctl import __version__
        from runctl.aws.deployment import explain_difference
        from runctl.cli.cloud import connect
        from runctl.model.identity import DEFAULT_DEPLOYMENT, check_deployment_name

        environment = os.environ
        profile = self.profile or ("" if environment.get("AWS_PROFILE") else settings.profile)
        named = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or ""
        region = self.region or named or settings.region
        name = environment.get("RUNCTL_DEPLOYMENT") or settings.deployment or DEFAULT_DEPLOYMENT
        cloud = connect(
            local=self.local, profile=profile, region=region, name=check_deployment_name(name)
        )
        if problem := explain_difference(cloud.deployment.version, __version__):
            self.output.note(f"warning: {problem}", style="yellow")
        return cloud


def invocation_of(context: typer.Context) -> Invocation:
    """Return the invocation, which a command shares with the groups that contain it."""
    root = context.find_root()
    if not isinstance(root.obj, Invocation):
        root.obj = Invocation()
    return root.obj


def _global_parameters() -> list[inspect.Parameter]:
    annotations = {
        "json": Json, "local": Local, "profile": Profile, "region": Region, "verbose": Verbose,
    }  # fmt: skip
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=annotation,
            default="" if name in {"profile", "region"} else False,
        )
        for name, annotation in annotations.items()
    ]


def make_command(body: Callable[..., None], name: str, **settings: Any) -> Command:
    """Make a command of a function whose first parameter is the invocation.

    typer reads the command's arguments and options from the function's signature, so the function
    may have any number of parameters.
    """
    _, *own = inspect.signature(body, eval_str=True).parameters.values()
    common = _global_parameters()

    def run(context: typer.Context, **values: Any) -> None:
        invocation = invocation_of(context)
        invocation.take(**{parameter.name: values.pop(parameter.name) for parameter in common})
        body(invocation, **values)

    context = inspect.Parameter(
        "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    parameters = [context, *own, *common]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = body.__doc__
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, cls=Command, **settings)(run)
    return cast("Command", get_command(app))
