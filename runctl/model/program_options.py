"""The options of a request that say which program runs."""

from collections.abc import Mapping
from dataclasses import dataclass

from runctl.model import request_checks as checks
from runctl.model.request_checks import MAX_ENV_BYTES
from runctl.model.request_fields import (
    Option,
    Syntax,
    boolean,
    strings,
    text,
    variables,
)


@dataclass(frozen=True, kw_only=True)
class ProgramOptions:
    """What runs. `script` is a path in `code`, or an S3 URI if there is no `code`."""

    script: str = text(
        "The program: a path inside `code`, or the S3 URI of one file.",
        check=checks.check_script,
    )
    command: tuple[str, ...] = strings(
        "Any program and its arguments, instead of a script; references to the trainer's variables "
        "are replaced as in `args`.",
        check=checks.check_command,
        limits={"minItems": 1},
    )
    code: str = text(
        "The packed project; `runctl aws train` makes and uploads it.",
        check=checks.check_code,
        pattern=r"^s3://.+\.tar\.gz$",
    )
    args: tuple[str, ...] = strings(
        "Arguments of the script. No shell reads them: only `$RUNCTL_NAME` and `${RUNCTL_NAME}` of "
        "the trainer contract are replaced.",
        check=checks.check_arguments,
    )
    resume_args: tuple[str, ...] = strings(
        "Additional arguments, after the others, if there is a checkpoint to resume from; "
        "references are replaced as in `args`.",
        check=checks.check_arguments,
        option=Option(
            "--resume-args",
            "Additional arguments when there is a checkpoint to resume from: "
            "'--resume $RUNCTL_CHECKPOINT_DIR', in single quotes.",
            "TEXT",
            Syntax.WORDS,
        ),
    )
    env: Mapping[str, str] = variables(
        f"Environment variables for the trainer, at most {MAX_ENV_BYTES} bytes. They are stored "
        "and shown, so give secrets by reference: `secret:NAME`, `secret:NAME#KEY`, `ssm:/PATH`.",
        check=checks.check_env,
        option=Option(
            "--env",
            "Environment variable for the trainer; repeatable. A secret by reference: "
            "NAME=secret:ID from Secrets Manager (secret:ID#KEY for one value of a JSON secret) or "
            "NAME=ssm:/PATH from Parameter Store, which the instance reads just before the trainer "
            "starts.",
            "NAME=VALUE",
            Syntax.ASSIGNMENTS,
        ),
        is_setting=True,
    )
    not_secrets: tuple[str, ...] = strings(
        "Variables of `env` and options in the arguments whose values look like secrets but are "
        "not; a request with such a value is refused otherwise.",
        check=checks.check_strings,
        option=Option(
            "--not-secret",
            "A variable or program option whose value looks like a secret but is not; repeatable. "
            "For an option: --not-secret=--sort-key.",
            "NAME",
            Syntax.REPEATED,
        ),
        is_setting=True,
        in_repr=True,
    )
    fresh_environment: bool = boolean(
        "Resolve the dependencies anew instead of taking an environment that another run stored. "
        "The versions that the first attempt installs are those of the whole run.",
        default=False,
        option=Option(
            "--fresh-environment",
            "Resolve the dependencies anew instead of taking a stored environment; all attempts "
            "of the run use the versions that the first one installs.",
            syntax=Syntax.SWITCH,
        ),
    )
    root: bool = boolean(
        "Run the program, and the installation of its dependencies, as root instead of as the user "
        "`runctl-trainer`. Nothing on the instance protects the agent, and what its role may "
        "access, from such a program.",
        default=False,
        option=Option(
            "--root",
            "Run the program as root, for example to install system packages; nothing on the "
            "instance protects the agent from it then.",
            syntax=Syntax.SWITCH,
        ),
    )
