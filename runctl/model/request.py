"""The run request, and the table of its fields.

Each attribute of the dataclasses here is one entry of the table: a field's name, group, type and
default, its check, its stored form, its description in the schema and the reference, and its
command-line option. All of these are derived from the entry (CONTRIBUTING.md says how to add one).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from runctl.model import request_checks as checks
from runctl.model.disk_options import DiskOptions, check_together
from runctl.model.docker_options import DockerOptions
from runctl.model.input_sources import check_inputs
from runctl.model.instance_types import MAX_TYPES, check_instance_types
from runctl.model.kinds import KINDS, TRAIN
from runctl.model.request_checks import ANY, INSTANCE_ID, MAX_ENV_BYTES, check_exit_codes
from runctl.model.request_fields import (
    Field,
    Option,
    Syntax,
    an_object,
    boolean,
    choice,
    entries,
    entry,
    instant,
    read_values,
    strings,
    text,
    variables,
    whole_number,
    write_values,
)

UNKNOWN = "unknown"
MARKETS = ("spot", "on-demand", "spot-then-on-demand")
DEFAULT_INSTANCE_TYPES = (
    "m7i.xlarge", "m7a.xlarge", "m6i.xlarge", "m6a.xlarge", "m5.xlarge",
    "m5a.xlarge", "c7i.xlarge", "c6i.xlarge", "c6a.xlarge", "r6i.xlarge",
)  # fmt: skip
CREDENTIALS = ("none", "run")
SIGNAL_EXIT = 128


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


@dataclass(frozen=True, kw_only=True)
class ResourceOptions:
    """Where the program runs."""

    instance_id: str = text(
        "An existing instance for the first attempt only; instances for later attempts are "
        "launched. It is not terminated with the run.",
        check=checks.check_instance_id,
        pattern=f"^{INSTANCE_ID.pattern}$",
    )
    instance_types: tuple[str, ...] = strings(
        "Instance types that the run may use; with ten or more, it is interrupted less often.",
        check=check_instance_types,
        default=DEFAULT_INSTANCE_TYPES,
        limits={"minItems": 1, "maxItems": MAX_TYPES},
        option=Option(
            "--instance-types",
            "Instance types that the run may use, separated by commas; repeatable.",
            "TYPES",
            Syntax.COMMAS,
        ),
        is_setting=True,
        in_repr=True,
    )
    market: str = choice(
        "How capacity is bought.",
        choices=MARKETS,
        noun="market",
        default="spot",
        unknown=UNKNOWN,
        option=Option("--market", "spot, on-demand or spot-then-on-demand.", "MARKET"),
        is_setting=True,
    )
    disk: DiskOptions = an_object(
        "The disk of each instance. Default: that of the deployment.",
        holder=DiskOptions,
        is_setting=True,
        omits_default=True,
        check_together=check_together,
    )


def _read_exit_codes(value: Any) -> tuple[int, ...] | str:
    if isinstance(value, list | tuple):
        return tuple(code for code in value if type(code) is int)
    if value != ANY:
        raise TypeError(checks.json_type(value))
    return ANY


def _write_exit_codes(value: tuple[int, ...] | str) -> list[int] | str | None:
    return ANY if isinstance(value, str) else [*value] or None


@dataclass(frozen=True, kw_only=True)
class RetryOptions:
    """Which failures of the trainer are retried from the newest checkpoint, and how many.

    `exit_codes` are those of a shell: 137 also stands for a trainer that signal 9 killed. Without
    any, which is the default, no failure is retried.
    """

    exit_codes: tuple[int, ...] | str = entry(
        (),
        Field(
            schema={
                "oneOf": [
                    {
                        "type": "array",
                        "minItems": 1,
                        "uniqueItems": True,
                        "items": {"type": "integer", "minimum": 1, "maximum": 255},
                    },
                    {"const": ANY},
                ],
                "description": f"Exit codes of the trainer to retry, or `{ANY}`; 137 means that "
                "the trainer was killed, for example because memory ran out.",
            },
            check=check_exit_codes,
            read=_read_exit_codes,
            write=_write_exit_codes,
            option=Option(
                "--retry-exit-codes",
                "Exit codes of the trainer after which to retry from the newest checkpoint, "
                f"separated by commas, or {ANY}.",
                "CODES",
                Syntax.EXIT_CODES,
            ),
        ),
    )
    max_failures: int = whole_number(
        "Maximum number of failures to retry; the next one ends the run.",
        least=1,
        most=100,
        default=3,
        option=Option(
            "--max-failures",
            "Maximum number of trainer failures to retry (default: 3).",
            "N",
            Syntax.NUMBER,
        ),
    )

    @property
    def is_on(self) -> bool:
        """Whether any failure is retried."""
        return bool(self.exit_codes)

    def covers(self, exit_code: int | None) -> bool:
        """Whether a trainer's exit code, negative for a signal, is to be retried."""
        if exit_code is None or exit_code == 0:
            return False
        as_in_a_shell = exit_code if exit_code > 0 else SIGNAL_EXIT - exit_code
        return isinstance(self.exit_codes, str) or as_in_a_shell in self.exit_codes


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """How long, and after which ends of an attempt, the run continues."""

    auto_resume: bool = boolean(
        "Relaunch after an interruption; otherwise the run ends as interrupted.",
        default=True,
        option=Option(
            "--no-auto-resume", "End the run at its first interruption.", syntax=Syntax.SWITCH
        ),
        is_setting=True,
    )
    max_attempts: int = whole_number(
        "Maximum number of attempts to launch.",
        least=1,
        most=1000,
        default=100,
        option=Option(
            "--max-attempts", "Maximum number of attempts to launch.", "N", Syntax.NUMBER
        ),
        is_setting=True,
    )
    deadline: datetime | None = instant(
        "No attempt is launched after this instant.",
        option=Option(
            "--deadline", "Launch nothing after this instant: 2030-01-31T18:00:00Z.", "INSTANT"
        ),
    )
    retry: RetryOptions = an_object(
        "Which failures of the trainer are retried from the newest checkpoint, in a new attempt. "
        "Default: none.",
        holder=RetryOptions,
        required=("exit_codes",),
        is_setting=True,
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """How checkpoints are taken."""

    dir: str = text(
        "Where the trainer saves, relative to the project. Default: the folder that "
        "RUNCTL_CHECKPOINT_DIR names.",
        check=checks.check_checkpoint_dir,
        option=Option(
            "--checkpoint-dir",
            "Where the trainer saves (default: $RUNCTL_CHECKPOINT_DIR).",
            "DIR",
        ),
    )
    keep_last: int = whole_number(
        "Number of complete checkpoints to keep.",
        least=1,
        most=1000,
        default=3,
        option=Option("--keep-last", "Number of complete checkpoints to keep.", "N", Syntax.NUMBER),
    )
    grace_seconds: int = whole_number(
        "How long the trainer may take to save after SIGTERM, in seconds.",
        least=0,
        most=90,
        default=90,
        option=Option(
            "--grace-seconds",
            "How long the trainer may take to save after SIGTERM.",
            "N",
            Syntax.NUMBER,
        ),
    )
    interval: int = whole_number(
        "Seconds between the saves that runctl requests of the trainer's helper; 0 chooses by what "
        "a save costs and how often instances are reclaimed.",
        least=0,
        most=86400,
        default=0,
    )

    @property
    def fixed_interval(self) -> timedelta | None:
        """The interval that the user set; None to choose it by what saves cost."""
        return timedelta(seconds=self.interval) if self.interval else None


@dataclass(frozen=True, kw_only=True)
class SavingOptions:
    """What is saved, and when."""

    checkpoint: CheckpointOptions = an_object(
        "How checkpoints are taken.", holder=CheckpointOptions, is_setting=True
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What the program reads."""

    inputs: Mapping[str, str] = variables(
        "Objects of S3, by name: `s3://bucket/key` for one, `s3://bucket/prefix/` for all below a "
        "prefix. They are in `RUNCTL_INPUT_DIR/NAME` before the program starts.",
        check=check_inputs,
        option=Option(
            "--input",
            "Objects of S3 to have in $RUNCTL_INPUT_DIR/NAME before the program starts: an object, "
            "or a prefix that ends with /; repeatable.",
            "NAME=s3://…",
            Syntax.ASSIGNMENTS,
        ),
        is_setting=True,
    )


@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """What the program may reach."""

    credentials: str = choice(
        "AWS credentials for the trainer: with `run` it can read what belongs to its run and the "
        "deployment's `readable_buckets`, and write its outputs.",
        choices=CREDENTIALS,
        noun="value",
        default="none",
        option=Option(
            "--credentials",
            "AWS credentials for the trainer: none, or run for credentials limited to this run.",
            "WHOSE",
        ),
        is_setting=True,
    )


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A checked request, its fields in groups; in JSON they are all at the top level.

    `extra` has the fields that only a newer version knows, those inside objects included.
    """

    kind: str = choice(
        "What the run is, which decides what follows the end of an attempt. A run of the kind "
        "`environment` builds the environment of its program and stores it, and starts no program.",
        choices=KINDS,
        noun="kind",
        default=TRAIN,
        unknown=UNKNOWN,
    )
    program: ProgramOptions = dataclasses.field(default_factory=ProgramOptions)
    resources: ResourceOptions = dataclasses.field(default_factory=ResourceOptions)
    limits: LimitOptions = dataclasses.field(default_factory=LimitOptions)
    saving: SavingOptions = dataclasses.field(default_factory=SavingOptions)
    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    access: AccessOptions = dataclasses.field(default_factory=AccessOptions)
    docker: DockerOptions = an_object(
        "The container image that the program runs in. Default: none, and the program runs on the "
        "machine itself, in an environment made from the project's requirements.",
        holder=DockerOptions,
        is_setting=True,
        omits_default=True,
    )
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def staged_inputs(self) -> Mapping[str, str]:
        """Everything that an instance stages below its input folder, by name."""
        return self.data.inputs

    @property
    def wants_credentials(self) -> bool:
        """Whether the trainer is given AWS credentials, which are those of its run."""
        return self.access.credentials == "run"

    @classmethod
    def of(cls, *, extra: Mapping[str, Any] | None = None, **values: Any) -> "RunRequest":
        """Return a request with these values, each by the name of its field."""
        if unknown := values.keys() - fields_of(cls).keys():
            raise TypeError(f"not a field of the request: {', '.join(sorted(unknown))}")
        parts = {
            name: holder(**_selected(values, entries(holder)))
            for name, holder in groups_of(cls).items()
        }
        return cls(**_selected(values, entries(cls)), **parts, extra=extra or {})

    @classmethod
    def from_stored(cls, document: Any) -> "RunRequest":
        """Read a request that was checked when it was stored, by this version or another.

        Never raises: `extra` keeps unknown fields, a value that cannot be read becomes the
        default, an unknown kind or market is `unknown`, and unknown credentials are none.
        """
        fields = fields_of(cls)
        return cls.of(**read_values(fields, document), extra=unknown_fields(document, fields))

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form, which `parse_request` reads back unchanged."""
        document = write_values(entries(type(self)), self)
        for name, holder in groups_of(type(self)).items():
            document |= write_values(entries(holder), getattr(self, name))
        fields = fields_of(type(self))
        for name, value in self.extra.items():
            is_inside = name in fields and isinstance(value, Mapping)
            document[name] = {**document.get(name, {}), **value} if is_inside else value
        return document


def _selected(values: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in fields}


def groups_of(request: type[RunRequest]) -> dict[str, type]:
    """Return the dataclass of each group of fields, by the group's name.

    An object that is a field of the request itself is no group: its name is part of the JSON.
    """
    own = entries(request)
    factories: dict[str, Any] = {
        each.name: each.default_factory for each in dataclasses.fields(request)
    }
    return {
        name: factory
        for name, factory in factories.items()
        if isinstance(factory, type) and dataclasses.is_dataclass(factory) and name not in own
    }


def fields_of(request: type[RunRequest]) -> dict[str, Field]:
    """Return the whole table: each field of the request by its name in JSON."""
    fields = dict(entries(request))
    for holder in groups_of(request).values():
        fields |= entries(holder)
    return fields


FIELDS = fields_of(RunRequest)


def unknown_fields(document: Any, fields: Mapping[str, Field] = FIELDS) -> dict[str, Any]:
    """Return what only a newer version knows of a stored request, also inside of objects."""
    unknown: dict[str, Any] = {}
    for name, value in document.items() if isinstance(document, Mapping) else ():
        if name not in fields:
            unknown[name] = value
        elif inner := unknown_fields(value, fields[name].fields) if fields[name].fields else {}:
            unknown[name] = inner
    return unknown


def mask_unknown(
    document: Mapping[str, Any], mask: str, fields: Mapping[str, Field] = FIELDS
) -> dict[str, Any]:
    """Return a request with `mask` in place of each value that only a newer version knows."""
    masked: dict[str, Any] = {}
    for name, value in document.items():
        if name not in fields:
            masked[name] = mask
        elif fields[name].fields and isinstance(value, Mapping):
            masked[name] = mask_unknown(value, mask, fields[name].fields)
        else:
            masked[name] = value
    return masked
