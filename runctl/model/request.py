"""The run request: what a user asks for, once it is checked."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from runctl.model.kinds import KINDS, TRAIN

UNKNOWN = "unknown"
MARKETS = ("spot", "on-demand", "spot-then-on-demand")
DEFAULT_INSTANCE_TYPES = (
    "m7i.xlarge", "m7a.xlarge", "m6i.xlarge", "m6a.xlarge", "m5.xlarge",
    "m5a.xlarge", "c7i.xlarge", "c6i.xlarge", "c6a.xlarge", "r6i.xlarge",
)  # fmt: skip
CREDENTIALS = ("none", "run")
S3_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """How checkpoints are taken.

    `dir` is where the trainer saves: a path relative to the project, or empty for the folder that
    RUNCTL_CHECKPOINT_DIR names. `keep_last` whole checkpoints stay. `grace_seconds` is how long a
    trainer may take to save after SIGTERM. `interval` is how many seconds pass from one save that
    the trainer's helper is asked for to the next, 0 to choose by the cost of a save.
    """

    dir: str = ""
    keep_last: int = 3
    grace_seconds: int = 90
    interval: int = 0

    @property
    def fixed_interval(self) -> timedelta | None:
        """The interval that the user fixed, None to choose one by what saves cost."""
        return timedelta(seconds=self.interval) if self.interval else None


ANY = "any"
SIGNAL_EXIT = 128


@dataclass(frozen=True, kw_only=True)
class RetryOptions:
    """Which failures of the trainer itself are retried from the newest checkpoint, and how many.

    `exit_codes` are those of a shell: 137 is also a trainer that a signal 9 ended. `any_exit_code`
    stands for all of them. Neither, which is the default, retries nothing.
    """

    exit_codes: tuple[int, ...] = ()
    any_exit_code: bool = False
    max_failures: int = 3

    @property
    def is_on(self) -> bool:
        """Whether any failure is retried."""
        return self.any_exit_code or bool(self.exit_codes)

    def covers(self, exit_code: int | None) -> bool:
        """Whether a trainer's exit code, negative for a signal, is to be retried."""
        if exit_code is None or exit_code == 0:
            return False
        as_in_a_shell = exit_code if exit_code > 0 else SIGNAL_EXIT - exit_code
        return self.any_exit_code or as_in_a_shell in self.exit_codes

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        codes = ANY if self.any_exit_code else list(self.exit_codes)
        return {"exit_codes": codes, "max_failures": self.max_failures}

    @classmethod
    def from_document(cls, document: Any) -> "RetryOptions":
        """Read the JSON form; what this version cannot read is the default."""
        values = document if isinstance(document, Mapping) else {}
        codes, most = values.get("exit_codes"), values.get("max_failures")
        listed = codes if isinstance(codes, list | tuple) else ()
        return cls(
            exit_codes=tuple(code for code in listed if type(code) is int),
            any_exit_code=codes == ANY,
            max_failures=most if type(most) is int else cls.max_failures,
        )


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A checked request. `script` is a path in `code`, or an s3:// URI when there is no `code`.

    A value of `env` may be a reference to a secret. `not_secrets` names the variables and options
    whose values look like secrets and are not. `extra` has the fields that a newer version stored.
    """

    kind: str = TRAIN
    script: str = ""
    command: tuple[str, ...] = field(default=(), repr=False)
    code: str = ""
    args: tuple[str, ...] = field(default=(), repr=False)
    resume_args: tuple[str, ...] = field(default=(), repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    not_secrets: tuple[str, ...] = ()
    instance_id: str = ""
    instance_types: tuple[str, ...] = DEFAULT_INSTANCE_TYPES
    market: str = "spot"
    auto_resume: bool = True
    max_attempts: int = 100
    deadline: datetime | None = None
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    credentials: str = "none"
    retry: RetryOptions = field(default_factory=RetryOptions)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def wants_credentials(self) -> bool:
        """Whether the trainer is to be given AWS credentials, which are those of its run."""
        return self.credentials == "run"

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form, which `parse_request` reads back unchanged."""
        document: dict[str, Any] = {
            **self.extra,
            "args": list(self.args),
            "auto_resume": self.auto_resume,
            "checkpoint": {
                "dir": self.checkpoint.dir,
                "keep_last": self.checkpoint.keep_last,
                "grace_seconds": self.checkpoint.grace_seconds,
                "interval": self.checkpoint.interval,
            },
            "env": dict(self.env),
            "instance_types": list(self.instance_types),
            "kind": self.kind,
            "market": self.market,
            "credentials": self.credentials,
            "max_attempts": self.max_attempts,
        }
        if self.script:
            document["script"] = self.script
        if self.command:
            document["command"] = list(self.command)
        if self.resume_args:
            document["resume_args"] = list(self.resume_args)
        if self.not_secrets:
            document["not_secrets"] = list(self.not_secrets)
        if self.code:
            document["code"] = self.code
        if self.instance_id:
            document["instance_id"] = self.instance_id
        if self.retry.is_on:
            document["retry"] = self.retry.as_document()
        if self.deadline is not None:
            document["deadline"] = self.deadline.isoformat()
        return document

    @classmethod
    def from_stored(cls, document: Any) -> "RunRequest":
        """Read a request that was checked when it was stored, by this version or another.

        Never raises: `extra` keeps unknown fields, a value that cannot be read becomes the
        default, an unknown kind or market is `unknown`, and unknown credentials are none.
        """
        values = _stored_values(cls, document)
        if "kind" in values and values["kind"] not in KINDS:
            values["kind"] = UNKNOWN
        if "market" in values and values["market"] not in MARKETS:
            values["market"] = UNKNOWN
        if values.get("credentials") not in CREDENTIALS:
            values.pop("credentials", None)
        deadline = document.get("deadline") if isinstance(document, Mapping) else None
        with contextlib.suppress(TypeError, ValueError):
            values["deadline"] = datetime.fromisoformat(deadline)  # type: ignore[arg-type]
        values["extra"] = unknown_fields(document)
        return cls(**values)


def unknown_fields(document: Any) -> dict[str, Any]:
    """Return the fields of a stored request that this version does not know."""
    if not isinstance(document, Mapping):
        return {}
    known = {one.name for one in fields(RunRequest)} - {"extra"}
    return {name: value for name, value in document.items() if name not in known}


def _stored_values(kind: type, document: Any) -> dict[str, Any]:  # noqa: C901 - a branch a type
    """Return the values of the fields of `kind` that have the type of their defaults."""
    values: dict[str, Any] = {}
    if not isinstance(document, Mapping):
        return values
    defaults = kind()
    for one in fields(kind):
        if one.name not in document:
            continue
        value, default = document[one.name], getattr(defaults, one.name)
        if isinstance(default, CheckpointOptions):
            values[one.name] = CheckpointOptions(**_stored_values(CheckpointOptions, value))
        elif isinstance(default, RetryOptions):
            values[one.name] = RetryOptions.from_document(value)
        elif isinstance(default, tuple):
            if isinstance(value, list | tuple):
                values[one.name] = tuple(map(str, value))
        elif isinstance(default, Mapping):
            if isinstance(value, Mapping):
                values[one.name] = {str(name): str(text) for name, text in value.items()}
        elif type(value) is type(default):
            values[one.name] = value
    return values


def split_s3_uri(uri: str) -> tuple[str, str]:
    """Return bucket and key of an `s3://bucket/key` URI; ValueError when it is none."""
    match = S3_URI.fullmatch(uri)
    if match is None:
        raise ValueError(f"{uri!r} is no s3://bucket/key")
    return match["bucket"], match["key"]


def is_inside_project(path: str) -> bool:
    """Whether a relative path stays below the project folder."""
    parts = path.replace("\\", "/").split("/")
    return bool(path) and not path.startswith(("/", "~")) and ".." not in parts
