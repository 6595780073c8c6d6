"""The table of all commands: a command's module is imported when that command is chosen."""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import Any

from typer.core import TyperCommand

from runctl.cli.display.help_page import Command, Group
from runctl.cli.invocation import make_command

_COMMANDS = "runctl.cli.commands."
_WITH_A_VALUE = frozenset({"--profile", "--region"})


class DeferredCommand(TyperCommand):
    """A command that is listed and completed by its name, and imported to run or explain it."""

    def __init__(self, target: str, name: str, summary: str, **settings: Any) -> None:
        super().__init__(name, short_help=summary, rich_markup_mode=None)
        self._target = target
        self._settings = settings

    @cached_property
    def loaded(self) -> Command:
        """The command itself."""
        module, _, function = self._target.partition(":")
        body = getattr(import_module(_COMMANDS + module), function)
        return make_command(body, self.name or function, **self._settings)

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Parse the arguments by the command itself, which the context then names."""
        return self.loaded.make_context(info_name, args, parent, **extra)


class RunFirst(Group):
    """A group that takes a word which is not a command as the name of a run to list."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `list` before the name of a run."""
        word = _first_word(args)
        if word is not None and word not in self.commands:
            args = ["list", *args]
        return super().parse_args(ctx, args)


def _first_word(args: list[str]) -> str | None:
    words = iter(args)
    for word in words:
        if word in _WITH_A_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def _group(cls: type[Group], name: str, summary: str, commands: list[DeferredCommand]) -> Group:
    return cls(
        name=name,
        help=summary,
        short_help=summary,
        commands={command.name or "": command for command in commands},
        no_args_is_help=True,
        rich_markup_mode=None,
    )


AWS = _group(
    Group,
    "aws",
    "Work on EC2: train, and machines that outlive a run.",
    [
        DeferredCommand(
            "aws.train:train",
            "train",
            "Train on EC2: pack the project, start a run, and follow it until it ends.",
            # Arguments after SCRIPT are passed to it, its options too.
            context_settings={"allow_interspersed_args": False},
        ),
        DeferredCommand(
            "aws.create:create",
            "create",
            "Launch a machine that waits for runs, and ends itself when nobody needs it any more.",
        ),
        DeferredCommand(
            "aws.terminate:terminate",
            "terminate",
            "End a machine that runctl launched; one that is gone already is fine.",
        ),
        DeferredCommand(
            "aws.spot_monitor:spot_monitor",
            "spot-monitor",
            "Watch over a training process on an instance: upload what it saves, and act on a "
            "notice.",
        ),
    ],
)

CHECKPOINTS = _group(
    RunFirst,
    "checkpoints",
    "A run's checkpoints. `runctl checkpoints RUN` lists them.",
    [
        DeferredCommand(
            "checkpoints.list:list_checkpoints",
            "list",
            "List a run's whole checkpoints, the newest first; the word `list` may be left out.",
        ),
        DeferredCommand(
            "checkpoints.pull:pull",
            "pull",
            "Fetch a checkpoint, verified, into a folder: as the trainer left it, or not at all.",
        ),
        DeferredCommand(
            "checkpoints.push:push",
            "push",
            "Make a folder the newest checkpoint of a run that has ended; then `runctl resume` it.",
        ),
        DeferredCommand(
            "checkpoints.prune:prune",
            "prune",
            "Remove all but the newest checkpoints of a run that has ended, and parts nobody "
            "needs.",
        ),
    ],
)

LOCAL = _group(
    Group,
    "local",
    "The local cloud: start it, look at it, interrupt.",
    [
        DeferredCommand("local.up:up", "up", "Start the local cloud and deploy runctl onto it."),
        DeferredCommand(
            "local.env:env",
            "env",
            "Print the variables that point AWS tools at the local cloud, with its keys.",
        ),
        DeferredCommand(
            "local.down:down",
            "down",
            "End the local cloud with all its instances; its runs are gone with it.",
        ),
        DeferredCommand(
            "local.status:status",
            "status",
            "Show the local cloud: where it is, what is deployed, which instances it has.",
        ),
        DeferredCommand(
            "local.interrupt:interrupt",
            "interrupt",
            "Let EC2 reclaim the instance that trains a run.",
        ),
        DeferredCommand(
            "local.capacity:capacity",
            "capacity",
            "Set how many instances a capacity pool holds.",
        ),
        DeferredCommand(
            "local.quota:quota",
            "quota",
            "Set how many vCPUs the account may run of a quota.",
        ),
        DeferredCommand(
            "local.fail_check:fail_check",
            "fail-check",
            "Let a status check of the instance that trains a run fail, since ten minutes ago.",
        ),
        DeferredCommand(
            "local.maintain:maintain",
            "maintain",
            "Schedule maintenance of the instance that trains a run.",
        ),
    ],
)

COMMANDS = [
    DeferredCommand(
        "init:init", "init", "Write .runctl.toml with the defaults of this folder's runs."
    ),
    AWS,
    DeferredCommand("list:list_runs", "list", "List runs, the newest first."),
    DeferredCommand("status:status", "status", "Show how a run stands, and each of its attempts."),
    DeferredCommand(
        "logs:logs", "logs", "Print what the trainer said, one attempt after the other."
    ),
    DeferredCommand(
        "stop:stop",
        "stop",
        "Stop a run: its trainer saves, its instances go. `resume` continues it.",
    ),
    DeferredCommand(
        "resume:resume", "resume", "Continue a run that has ended, from its newest checkpoint."
    ),
    CHECKPOINTS,
    DeferredCommand(
        "doctor:doctor",
        "doctor",
        "List what is left in the account that nobody wants: machines, fleets, volumes, data.",
    ),
    LOCAL,
    DeferredCommand(
        "deploy:deploy",
        "deploy",
        "Deploy runctl into the account of your AWS credentials, with the AWS CDK.",
        context_settings={"ignore_unknown_options": True},
    ),
    DeferredCommand(
        "demo:demo",
        "demo",
        "Train on the local cloud, be interrupted three times, and end with the very same bits.",
    ),
]
