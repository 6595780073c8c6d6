"""The table of all commands: a command's module is imported when that command is chosen."""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import Any

from typer.core import TyperCommand

from runctl.cli.display.help_page import Command, Group
from runctl.cli.invocation import make_command
from runctl.cli.repeated_option import repeat_option

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


class Tune(DeferredCommand):
    """The command whose option --hyperparameters takes all words up to the next option."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Parse the arguments with the option before each of its words."""
        words = repeat_option(args, "--hyperparameters")
        return super().make_context(info_name, words, parent, **extra)


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
    "Train and process data on EC2, and manage instances that outlive a run.",
    [
        DeferredCommand(
            "aws.train:train",
            "train",
            "Train on EC2: pack the project, start a run, and follow it until it ends.",
            # Arguments after SCRIPT are passed to it, its options too.
            context_settings={"allow_interspersed_args": False},
        ),
        DeferredCommand(
            "aws.train_distributed:train_distributed",
            "train-distributed",
            "Train on several nodes (a gang): launched together, repaired when one of them is "
            "lost.",
            context_settings={"allow_interspersed_args": False},
        ),
        DeferredCommand(
            "aws.serve:serve",
            "serve",
            "Run an HTTP server on EC2: restarted when it fails, replaced before an interruption.",
        ),
        Tune(
            "aws.hyperparameter_tune:hyperparameter_tune",
            "hyperparameter-tune",
            "Try hyperparameters: start one run for each trial, several at once, and find the "
            "best.",
        ),
        DeferredCommand(
            "aws.evaluate:evaluate",
            "evaluate",
            "Evaluate a checkpoint with a script, or each one as a run commits it.",
            context_settings={"allow_interspersed_args": False},
        ),
        DeferredCommand(
            "aws.process:process",
            "process",
            "Process data in S3: split an input into shards, and call a script for each of them.",
        ),
        DeferredCommand(
            "aws.connect:connect",
            "connect",
            "Make a service reachable on a port of this machine, until Ctrl-C.",
        ),
        DeferredCommand(
            "aws.create:create",
            "create",
            "Launch an instance that waits for runs, and terminates itself when its time is up.",
        ),
        DeferredCommand(
            "aws.lend:lend",
            "lend",
            "Show whether runs may start on an existing instance and until when; set or end that.",
        ),
        DeferredCommand(
            "aws.terminate:terminate",
            "terminate",
            "Terminate an instance that runctl launched.",
        ),
        DeferredCommand(
            "aws.spot_monitor:spot_monitor",
            "spot-monitor",
            "Monitor a training process on an instance: upload its saves, and react to a notice.",
        ),
    ],
)

DOCKER = _group(
    Group,
    "docker",
    "Build the images of projects with the Docker of this machine.",
    [
        DeferredCommand(
            "docker.build:build",
            "build",
            "Build a project's image with the Docker of this machine, as a run would build it.",
        ),
    ],
)

CHECKPOINTS = _group(
    RunFirst,
    "checkpoints",
    "Manage a run's checkpoints; `runctl checkpoints RUN` lists them.",
    [
        DeferredCommand(
            "checkpoints.list:list_checkpoints",
            "list",
            "List a run's complete checkpoints, newest first; the word `list` is optional.",
        ),
        DeferredCommand(
            "checkpoints.pull:pull",
            "pull",
            "Fetch a checkpoint into a folder, verified: completely or not at all.",
        ),
        DeferredCommand(
            "checkpoints.push:push",
            "push",
            "Store a folder as the newest checkpoint of a run that has ended.",
        ),
        DeferredCommand(
            "checkpoints.prune:prune",
            "prune",
            "Remove older checkpoints of a run that has ended, and parts that no checkpoint needs.",
        ),
    ],
)

ENVIRONMENTS = _group(
    Group,
    "environments",
    "Manage the stored environments, with the packages of trainers, that runs share.",
    [
        DeferredCommand(
            "environments.list:list_environments",
            "list",
            "List the stored environments, the most recently used first.",
        ),
        DeferredCommand(
            "environments.build:build",
            "build",
            "Build the environment of a project on a small instance and store it, before a run "
            "needs it.",
        ),
        DeferredCommand(
            "environments.prune:prune",
            "prune",
            "Remove stored environments that no run needs, and parts that no environment names.",
        ),
    ],
)

SWEEP = _group(
    Group,
    "sweep",
    "Show, plot, stop and resume sweeps, which `runctl aws hyperparameter-tune` starts.",
    [
        DeferredCommand("sweep.list:list_sweeps", "list", "List sweeps, the newest first."),
        DeferredCommand(
            "sweep.status:status",
            "status",
            "Show the progress of a sweep, its trials, and the best of them.",
        ),
        DeferredCommand(
            "sweep.best:best",
            "best",
            "Print the best trial of a sweep so far; its run has the checkpoints.",
        ),
        DeferredCommand(
            "sweep.plots:plots",
            "plots",
            "Draw the trials of a sweep as PNG pictures: history, importance, parallel "
            "coordinates.",
        ),
        DeferredCommand(
            "sweep.stop:stop",
            "stop",
            "Stop a sweep: no trial is started any more, and those that run save and end.",
        ),
        DeferredCommand(
            "sweep.resume:resume",
            "resume",
            "Continue a sweep: trials that were stopped or never started run to their end.",
        ),
    ],
)

LOCAL = _group(
    Group,
    "local",
    "Start, inspect and stop the local cloud, and simulate faults in it.",
    [
        DeferredCommand("local.up:up", "up", "Start the local cloud and deploy runctl onto it."),
        DeferredCommand(
            "local.env:env",
            "env",
            "Print the environment variables by which AWS tools use the local cloud.",
        ),
        DeferredCommand(
            "local.down:down",
            "down",
            "Stop the local cloud and all of its instances; its runs are lost.",
        ),
        DeferredCommand(
            "local.status:status",
            "status",
            "Show the local cloud's endpoint, deployed stacks and instances.",
        ),
        DeferredCommand(
            "local.interrupt:interrupt",
            "interrupt",
            "Reclaim the instance on which a run is training, as EC2 does.",
        ),
        DeferredCommand(
            "local.capacity:capacity",
            "capacity",
            "Set the number of instances that a capacity pool offers.",
        ),
        DeferredCommand(
            "local.quota:quota",
            "quota",
            "Set the number of vCPUs that a quota of the account allows.",
        ),
        DeferredCommand(
            "local.fail_check:fail_check",
            "fail-check",
            "Fail a status check of the instance on which a run is training, as of ten minutes "
            "ago.",
        ),
        DeferredCommand(
            "local.maintain:maintain",
            "maintain",
            "Schedule maintenance of the instance on which a run is training.",
        ),
    ],
)

COMMANDS = [
    DeferredCommand(
        "init:init", "init", "Write .runctl.toml with default settings for runs in this folder."
    ),
    AWS,
    DeferredCommand("list:list_runs", "list", "List runs, the newest first."),
    DeferredCommand(
        "status:status", "status", "Show the state of a run and of each of its attempts."
    ),
    DeferredCommand(
        "compare:compare",
        "compare",
        "Compare the results of runs: metrics, steps and machine time, with plots of histories.",
    ),
    DeferredCommand(
        "logs:logs", "logs", "Print the trainer's output, one attempt after the other."
    ),
    DeferredCommand(
        "stop:stop",
        "stop",
        "Stop a run: its trainer saves, then its instances are terminated.",
    ),
    DeferredCommand(
        "resume:resume", "resume", "Continue a run that has ended, from its newest checkpoint."
    ),
    DeferredCommand(
        "forget:forget",
        "forget",
        "Remove everything that is stored of a run that has ended.",
    ),
    SWEEP,
    CHECKPOINTS,
    DOCKER,
    ENVIRONMENTS,
    DeferredCommand(
        "doctor:doctor",
        "doctor",
        "List leftovers in the account: instances, fleets, volumes and data that nothing needs.",
    ),
    DeferredCommand(
        "verify:verify",
        "verify",
        "Check a deployment at no cost: permissions, states, launches, quotas and routes.",
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
        "Train on the local cloud through three interruptions, to bit-for-bit the same result.",
    ),
]
