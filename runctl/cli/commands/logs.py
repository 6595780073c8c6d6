"""`runctl logs`: the output of a run's trainer, or of its agent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runctl.cli.commands.find import RunName, find_run
from runctl.cli.display.output import Output
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, NotFoundError, Problem
from runctl.model.kinds import PROCESS
from runctl.report.job_log import JobLog
from runctl.report.log_tail import BUILD, LogEntry, LogTail
from runctl.report.run_log import RunLog

if TYPE_CHECKING:
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
    rank: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Print only the node of this rank of a gang."),
    ] = None,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Print only newer lines: 10m, 2h, or an instant.")
    ] = "",
    agent: Annotated[
        bool, typer.Option("--agent", help="Print the agent's log instead of the trainer's.")
    ] = False,
) -> None:
    """Print the trainer's output, one attempt after the other.

    The lines of the nodes of a gang are in the order of their times, each after the node's rank.
    The runs of a job on several instances are printed one after the other.
    """
    after = read_since(since, now=datetime.now(timezone.utc)) if since else None
    cloud, output = invocation.cloud, invocation.output
    group = None if cloud.ledger.find_run(run) else cloud.groups.find_group(run)
    entries: Iterator[tuple[str, LogEntry]]
    if group is not None and group.kind == PROCESS:
        _refuse_for_job(run, attempt, rank)

        def log_of(run_id: str) -> RunLog:
            tail = LogTail(cloud.logs, run_id, since=after, is_agent=agent)
            return RunLog(cloud, tail, shows_prompts=not output.as_json)

        job_log = JobLog(cloud, run, log_of, pause=cloud.pause)
        entries = job_log.follow() if follow else job_log.read()
    else:
        held = find_run(cloud, run)
        if attempt is not None and cloud.ledger.find_attempt(run, attempt) is None:
            see = f"`runctl status {run}`"
            raise NotFoundError(f"{run} has no attempt {attempt}; see {see}")
        if rank is not None:
            _check_rank(cloud, run, attempt, rank)
        is_whole = attempt is None and rank is None and not agent
        tail = LogTail(
            cloud.logs,
            run,
            since=after,
            is_agent=agent,
            has_build=bool(held.request.docker.dockerfile) and is_whole,
        )
        log = RunLog(cloud, tail, attempt=attempt, rank=rank, shows_prompts=not output.as_json)
        entries = (("", entry) for entry in (log.follow() if follow else log.read()))
    printer = _LogPrinter(output)
    try:
        for run_id, entry in entries:
            printer.take(entry, run_id)
    except KeyboardInterrupt:
        printer.finish()
        output.note(f"{run} continues")
        raise
    printer.finish()


def _refuse_for_job(job: str, attempt: int | None, rank: int | None) -> None:
    given = {"--attempt": attempt, "--rank": rank}
    shown = f"`runctl status {job}` shows"
    problem = f"not for a job of several runs; name one of those that {shown}"
    problems = [Problem(option, problem) for option, value in given.items() if value is not None]
    if problems:
        raise InvalidRequestError(tuple(problems))


def _check_rank(cloud: Cloud, run: str, attempt: int | None, rank: int) -> None:
    """Refuse a rank that no attempt has, unless the run has not begun."""
    attempts = [each for each in cloud.ledger.attempts(run) if attempt in {None, each.number}]
    most = max((len(each.nodes) for each in attempts), default=rank + 1)
    if rank >= most:
        ranks = "0" if most == 1 else f"0 to {most - 1}"
        raise NotFoundError(f"{run} has no node of rank {rank}; its ranks are {ranks}")


class _LogPrinter:
    """Prints lines as they arrive, or collects them for the document."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lines: list[dict[str, Any]] = []
        self._place: tuple[str, int] | None = None

    def take(self, entry: LogEntry, run_id: str = "") -> None:
        """Take a line; `run_id` is the run that it belongs to if there are several."""
        if self._output.as_json:
            which = {"run_id": run_id} if run_id else {}
            self._lines.append({**which, **entry.as_document()})
            return
        if (run_id, entry.attempt) != self._place:
            self._place = (run_id, entry.attempt)
            name = f"attempt {entry.attempt}" if entry.attempt != BUILD else "image"
            self._output.note(f"── {run_id} {name}" if run_id else f"── {name}", style="dim")
        self._output.line(entry.plain)

    def finish(self) -> None:
        if self._output.as_json:
            self._output.result({"lines": self._lines})


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
