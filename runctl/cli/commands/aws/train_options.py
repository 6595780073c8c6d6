"""The arguments and options of `runctl aws train`, as typer reads them from a signature."""

from typing import Annotated

import typer

Script = Annotated[
    str,
    typer.Argument(
        help="The program: a path in the project, or the s3:// URI of one file. An instance id "
        "before it names an existing instance for the first attempt. With --command: any program, "
        "such as torchrun.",
    ),
]
ScriptArguments = Annotated[
    list[str] | None, typer.Argument(help="Arguments after SCRIPT are passed to it.")
]
IsCommand = Annotated[
    bool,
    typer.Option(
        "--command",
        help="Treat SCRIPT and its arguments as a command that starts in the project's folder: "
        "--command torchrun --nproc-per-node 2 train.py.",
    ),
]
ResumeArguments = Annotated[
    str,
    typer.Option(
        metavar="TEXT",
        help="Additional arguments when there is a checkpoint to resume from: "
        "'--resume $RUNCTL_CHECKPOINT_DIR', in single quotes.",
    ),
]
Name = Annotated[
    str,
    typer.Option(
        metavar="RUN", help="The run's name (default: the script's name, the time and 4 digits)."
    ),
]
InstanceTypes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TYPES",
        help="Instance types that the run may use, separated by commas; repeatable.",
    ),
]
Market = Annotated[
    str | None, typer.Option(metavar="MARKET", help="spot, on-demand or spot-then-on-demand.")
]
NoAutoResume = Annotated[
    bool, typer.Option("--no-auto-resume", help="End the run at its first interruption.")
]
MaxAttempts = Annotated[
    int | None, typer.Option(metavar="N", help="Maximum number of attempts to launch.")
]
Deadline = Annotated[
    str | None,
    typer.Option(
        metavar="INSTANT", help="Launch nothing after this instant: 2030-01-31T18:00:00Z."
    ),
]
Env = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Environment variable for the trainer; repeatable. A secret by reference: "
        "NAME=secret:ID from Secrets Manager (secret:ID#KEY for one value of a JSON secret) or "
        "NAME=ssm:/PATH from Parameter Store, which the instance reads just before the trainer "
        "starts.",
    ),
]
NotSecret = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A variable or program option whose value looks like a secret but is not; repeatable. "
        "For an option: --not-secret=--sort-key.",
    ),
]
Credentials = Annotated[
    str | None,
    typer.Option(
        metavar="WHOSE",
        help="AWS credentials for the trainer: none, or run for credentials limited to this run.",
    ),
]
CheckpointDir = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Where the trainer saves (default: $RUNCTL_CHECKPOINT_DIR)."),
]
KeepLast = Annotated[
    int | None, typer.Option(metavar="N", help="Number of complete checkpoints to keep.")
]
GraceSeconds = Annotated[
    int | None,
    typer.Option(metavar="N", help="How long the trainer may take to save after SIGTERM."),
]
RetryExitCodes = Annotated[
    str | None,
    typer.Option(
        metavar="CODES",
        help="Exit codes of the trainer after which to retry from the newest checkpoint, separated "
        "by commas, or any.",
    ),
]
MaxFailures = Annotated[
    int | None,
    typer.Option(metavar="N", help="Maximum number of trainer failures to retry (default: 3)."),
]
ProjectFolder = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        help="The folder to pack (default: the nearest with .runctl.toml or .git).",
    ),
]
Detach = Annotated[bool, typer.Option("--detach", help="Start the run and return.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the request and the package; start nothing.")
]
