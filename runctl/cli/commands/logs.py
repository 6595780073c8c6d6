"""`runctl logs`: the output of a run's trainer, or of its agent."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runctl.cli.commands.find import RunName, find_run
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, NotFoundError, Problem
from runctl.report.log_tail import UNFINISHED_LINE_TIME, LogTail, plain

if TYPE_CHECKING:
    from runctl.aws.logs import LogLine
    from runctl.cli.cloud import Cloud


def logs(
    invocation: Invocation,
    run: RunName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue until the run ends.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Print only this attempt.")
    ] = None,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Print only newer lines: 10m, 2h, or an instant.")
    ] = "",
    agent: Annotated[
        bool, typer.Option("--agent", help="Print the agent's log instead of the trainer's.")
    ] = False,
) -> None:
    """Print the trainer's output, one attempt after the other."""
    after = read_since(since, now=datetime.now(timezone.utc)) if since else None
    cloud = invocation.cloud
    find_run(cloud, run)
    if attempt is not None and cloud.ledger.find_attempt(run, attempt) is None:
        raise NotFoundError(f"{run} has no attempt {attempt}; see `runctl status {run}`")
    printer = _LogPrinter(invocation)
    tail = LogTail(cloud.logs, run, since=after, is_agent=agent)
    try:
        _print_logs(cloud, run, tail, printer, only=attempt, follow=follow)
    except KeyboardInterrupt:
        printer.finish()
        invocation.output.note(f"{run} continues")
        raise
    printer.finish()


class _LogPrinter:
    """Prints lines as they arrive, or collects them for the document."""

    def __init__(self, invocation: Invocation) -> None:
        self._output = invocation.output
        self._lines: list[dict[str, Any]] = []
        self._attempt = 0

    @property
    def as_json(self) -> bool:
        """Whether lines are collected until the end."""
        return self._output.as_json

    def take_all(self, lines: Iterable[tuple[int, LogLine]]) -> None:
        for attempt, line in lines:
            self.take(attempt, line)

    def take(self, attempt: int, line: LogLine) -> None:
        if self._output.as_json:
            text = line.text.rstrip("\r\n")
            self._lines.append({"attempt": attempt, "at": line.at.isoformat(), "text": text})
            return
        if attempt != self._attempt:
            self._attempt = attempt
            self._output.note(f"── attempt {attempt}", style="dim")
        self._output.line(plain(line.text))

    def finish(self) -> None:
        if self._output.as_json:
            self._output.result({"lines": self._lines})


def _print_logs(
    cloud: Cloud,
    run_id: str,
    tail: LogTail,
    printer: _LogPrinter,
    *,
    only: int | None,
    follow: bool,
) -> None:
    quiet = 0
    while True:
        run = cloud.ledger.find_run(run_id)
        attempts = cloud.ledger.attempts(run_id)
        chosen = [known for known in attempts if only is None or known.number == only]
        printed = 0
        for number, line in tail.read(chosen):
            printer.take(number, line)
            printed += 1
        if follow and not printer.as_json:
            printer.take_all(tail.unfinished(after=UNFINISHED_LINE_TIME))
        quiet = 0 if printed else quiet + 1
        over = run is None or run.ended is not None or any(known.ended for known in chosen if only)
        # The last lines reach the log shortly after the end is known.
        if not follow or (over and quiet > 1):
            printer.take_all(tail.unfinished())
            return
        time.sleep(cloud.pause)


def read_since(text: str, *, now: datetime) -> datetime:
    """Parse a duration before now, such as 10m, or an instant with a time zone."""
    if match := re.fullmatch(r"(\d{1,6})\s*(s|m|h|d)", text):
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
        return now - timedelta(**{unit: int(match[1])})
    try:
        instant = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        remedy = "write 10m, 2h, 1d, or an instant with a time zone such as 2030-01-31T18:00:00Z"
        raise InvalidRequestError((Problem("--since", f"{text!r} is not a time; {remedy}"),))
    return instant
