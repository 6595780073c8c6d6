"""The options of a request that say how long, and after which ends, a run continues."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runctl.model import request_checks as checks
from runctl.model.request_checks import ANY, check_exit_codes
from runctl.model.request_fields import (
    Field,
    Option,
    Syntax,
    an_object,
    boolean,
    entry,
    instant,
    whole_number,
)

SIGNAL_EXIT = 128


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
