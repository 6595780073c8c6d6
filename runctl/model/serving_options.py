"""The fields of a run request about the HTTP server of a service."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runctl.model.errors import Problem
from runctl.model.input_sources import parse_input
from runctl.model.kinds import SERVE
from runctl.model.request_fields import (
    Option,
    Syntax,
    an_object,
    optional_number,
    text,
    whole_number,
)

# The name of the input that the checkpoint of a service is staged as.
CHECKPOINT = "checkpoint"
DEFAULT_PORT = 8080
# How the reason of a run begins that ended because nobody used it.
IDLE = "there was no connection for"
_PATH = re.compile(r"/[!-~]{0,1023}")


def check_path(value: Any) -> str | None:
    """Check the path of a probe."""
    if value == "" or (isinstance(value, str) and _PATH.fullmatch(value)):
        return None
    return f"{value!r} is not the path of a URL; begin it with / (e.g. /health)"


def check_checkpoint(value: Any) -> str | None:
    """Check the S3 URI of a checkpoint."""
    if value == "":
        return None
    if not isinstance(value, str):
        return f"{value!r} is not an S3 URI; write s3://bucket/best.pt"
    try:
        parse_input(value)
    except ValueError as exc:
        return str(exc)
    return None


def _path(about: str) -> Any:
    return text(about, check=check_path)


def _status() -> Any:
    return optional_number(
        "The status of a successful answer. Default: any from 200 to 399, and without a path any "
        "below 500.",
        least=100,
        most=599,
    )


def _timeout(default: int) -> Any:
    return whole_number("Seconds to wait for an answer.", least=1, most=60, default=default)


def _period(default: int) -> Any:
    return whole_number("Seconds between two probes.", least=1, most=300, default=default)


@dataclass(frozen=True, kw_only=True)
class StartupProbe:
    """The probe of a server that has just started, until it succeeds once."""

    path: str = _path("The path to request. Default: `probe_path`.")
    status: int = _status()
    timeout_seconds: int = _timeout(2)
    period_seconds: int = _period(1)


@dataclass(frozen=True, kw_only=True)
class ReadinessProbe:
    """The probe that says whether the server gets requests."""

    path: str = _path("The path to request. Default: `probe_path`.")
    status: int = _status()
    timeout_seconds: int = _timeout(2)
    period_seconds: int = _period(2)
    failures: int = whole_number(
        "Failures in a row after which the server gets no new connections.",
        least=1,
        most=100,
        default=3,
    )


@dataclass(frozen=True, kw_only=True)
class LivenessProbe:
    """The probe that says whether the server is restarted."""

    path: str = _path("The path to request. Default: `probe_path`.")
    status: int = _status()
    timeout_seconds: int = _timeout(5)
    period_seconds: int = _period(5)
    failures: int = whole_number(
        "Failures in a row after which the server is restarted.", least=1, most=100, default=6
    )


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """The server of a service; `probe_path` is empty if any answer of the server counts."""

    port: int = whole_number(
        "The port that the server listens on, which it gets as `--port`, `PORT` and "
        "`RUNCTL_PORT`. It is not public: `runctl aws connect` reaches it through SSM.",
        least=1024,
        most=65535,
        default=DEFAULT_PORT,
        option=Option(
            "--port",
            f"Port that the server listens on (default: {DEFAULT_PORT}).",
            "N",
            Syntax.NUMBER,
        ),
    )
    checkpoint: str = text(
        "What the server loads: the S3 URI of an object, or of a prefix that ends with /. The "
        "instance has it in `RUNCTL_INPUT_DIR/checkpoint`, and the script gets its local path as "
        "`--checkpoint`.",
        check=check_checkpoint,
        option=Option(
            "--checkpoint",
            "What the server loads, an object of S3 or a prefix that ends with /; the script gets "
            "its local path as --checkpoint.",
            "s3://…",
        ),
    )
    probe_path: str = text(
        "The path that all probes request. Default: `/`, where any answer below 500 counts.",
        check=check_path,
        option=Option(
            "--probe-path",
            "Path that probes request, for example /health (default: /, where any answer below 500 "
            "counts).",
            "PATH",
        ),
    )
    startup_seconds: int = whole_number(
        "How long the server may take to become ready, in seconds.",
        least=1,
        most=3600,
        default=300,
        option=Option(
            "--startup-seconds",
            "How long the server may take to become ready (default: 300).",
            "N",
            Syntax.NUMBER,
        ),
    )
    drain_seconds: int = whole_number(
        "How long the server may take to answer the requests that it has accepted, after SIGTERM, "
        "in seconds.",
        least=0,
        most=90,
        default=20,
        option=Option(
            "--drain-seconds",
            "How long the server may take after SIGTERM to answer what it has accepted (default: "
            "20).",
            "N",
            Syntax.NUMBER,
        ),
    )
    idle_stop_seconds: int = optional_number(
        "End the run as stopped when its server has had no connection for this many seconds; the "
        "next `runctl aws connect` starts it again. Default: it goes on.",
        least=60,
        most=7 * 86_400,
        option=Option(
            "--idle-stop",
            "Stop when there was no connection for so long, for example 30m; the next `runctl aws "
            "connect` starts it again.",
            "TIME",
            Syntax.DURATION,
        ),
    )
    replicas: int = whole_number(
        "Number of servers. `runctl aws serve` starts a run for each, `NAME-1`, `NAME-2` and so "
        "on, and `runctl aws connect NAME` spreads requests over those that are ready.",
        least=1,
        most=20,
        default=1,
        option=Option(
            "--replicas",
            "Number of servers, each a run of its own: NAME-1, NAME-2, … (default: 1).",
            "N",
            Syntax.NUMBER,
        ),
    )
    startup: StartupProbe = an_object(
        "The probe until the server is ready for the first time.", holder=StartupProbe
    )
    readiness: ReadinessProbe = an_object(
        "The probe that says whether the server gets requests.", holder=ReadinessProbe
    )
    liveness: LivenessProbe = an_object(
        "The probe that says whether the server is restarted.", holder=LivenessProbe
    )

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments that runctl adds to those of a script, as references to its variables."""
        port = ("--port", "$RUNCTL_PORT")
        if not self.checkpoint:
            return port
        source = parse_input(self.checkpoint)
        name = "" if source.is_prefix else f"/{source.key.rpartition('/')[2]}"
        return ("--checkpoint", f"${{RUNCTL_INPUT_DIR}}/{CHECKPOINT}{name}", *port)


def serving_contradictions(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield problems of a service's fields with others of the request."""
    serve, inputs = document.get("serve"), document.get("inputs")
    if document.get("kind") != SERVE or not isinstance(serve, Mapping):
        return
    if serve.get("checkpoint") and isinstance(inputs, Mapping) and CHECKPOINT in inputs:
        yield Problem(
            f"inputs.{CHECKPOINT}",
            "is the name of serve.checkpoint (--checkpoint); give the input another name",
        )
