"""Views of runs: the pages of `status` and `list`, and the view while following."""

import shlex
from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runctl.cli.display.reasons import last_lines_text
from runctl.model.checkpoint import name_of
from runctl.model.outcome import OutcomeKind, RunStatus
from runctl.model.plain_secrets import mask_words
from runctl.model.run import Attempt, AttemptStage, Run, derive_status
from runctl.model.versions import Versions
from runctl.report.descriptions import (
    NOTHING,
    checkpoint_text,
    counts_text,
    doing,
    final_saves_text,
    metrics_text,
    next_launch_text,
    saving_texts,
    short_name,
    steps_text,
    took_text,
)
from runctl.report.documents import failures, interruptions, warnings_of
from runctl.report.reasons import brief
from runctl.report.run_list import RunEntry
from runctl.report.wording import say_duration, say_instant

STATUS_STYLES = {
    RunStatus.PENDING: "dim",
    RunStatus.LAUNCHING: "cyan",
    RunStatus.RUNNING: "bold cyan",
    RunStatus.RECOVERING: "bold yellow",
    RunStatus.COMPLETED: "bold green",
    RunStatus.FAILED: "bold red",
    RunStatus.INTERRUPTED: "yellow",
    RunStatus.STOPPED: "magenta",
    RunStatus.UNKNOWN: "dim",
}
OUTCOME_STYLES = {
    OutcomeKind.COMPLETED: "green",
    OutcomeKind.FAILED: "red",
    OutcomeKind.INTERRUPTED: "yellow",
    OutcomeKind.LOST: "yellow",
    OutcomeKind.NO_CAPACITY: "dim",
    OutcomeKind.STOPPED: "magenta",
    OutcomeKind.UNKNOWN: "dim",
}
# From this width on, a table has room for a reason next to the rest.
_WIDE = 120
# Below this width there is no room for every column of the attempts.
_NARROW = 76
# The maximum widths in a list: of the columns that are always there except the name, of those that
# a wide list adds, and of the pool.
_OTHER_COLUMNS = 46
_MORE_COLUMNS = 34
_POOL_COLUMN = 36


def status_page(
    run: Run,
    attempts: Sequence[Attempt],
    versions: Versions | None = None,
    *,
    now: datetime,
    width: int,
) -> RenderableType:
    """Return the page of one run: its program, its state and its attempts."""
    status = derive_status(run, attempts)
    parts: list[RenderableType] = [
        Text.assemble((run.run_id, "bold"), "  ", (status.value, STATUS_STYLES[status])),
        _facts(run, attempts, versions, now=now),
    ]
    if attempts:
        parts += ["", _attempt_table(attempts, now=now, width=width)]
        if width < _WIDE:
            parts += [
                Text(f"attempt {attempt.number}: {brief(attempt.ended.reason)}", style="dim")
                for attempt in attempts
                if attempt.ended is not None and attempt.ended.reason not in {"", run.reason}
            ]
    if "\n" in run.reason:
        parts += [
            "",
            Text("its last lines:", style="dim"),
            last_lines_text(run.reason, width=width),
        ]
    parts += [Text(f"warning: {text}", style="yellow") for text in warnings_of(attempts)]
    return Group(*parts)


def _facts(
    run: Run, attempts: Sequence[Attempt], versions: Versions | None, *, now: datetime
) -> Table:
    request = run.request
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    program = (
        [request.program.script, *request.program.args]
        if request.program.script
        else list(request.program.command)
    )
    facts.add_row("program", shlex.join(mask_words(program, request.program.not_secrets)))
    took = say_duration((run.ended_at or now) - run.started_at)
    facts.add_row("started", f"{say_instant(run.started_at)}, {_lasting(run, took)}")
    if run.reason:
        facts.add_row("reason", brief(run.reason))
    if run.ended is None and (planned := next_launch_text(attempts, now=now)):
        facts.add_row("next launch", planned)
    facts.add_row("checkpoint", checkpoint_text(run, now=now))
    for label, text in saving_texts(attempts):
        facts.add_row(label, text)
    if attempts and (metrics := metrics_text(attempts[-1])):
        facts.add_row("metrics", metrics)
    if taken := interruptions(attempts):
        facts.add_row("interruptions", str(taken))
    if failed := failures(attempts):
        facts.add_row("failures", _failures(run, failed))
    if text := final_saves_text(attempts):
        facts.add_row("final saves", text)
    if versions is not None and versions.packages:
        facts.add_row("versions", str(versions))
    return facts


def _failures(run: Run, failed: int) -> str:
    retry = run.request.limits.retry
    limit = f"; up to {retry.max_failures} are retried" if retry.is_on else ""
    return f"{failed} of the trainer{limit}"


def _lasting(run: Run, took: str) -> str:
    return f"took {took}" if run.ended_at is not None else f"{took} ago"


def _attempt_table(attempts: Sequence[Attempt], *, now: datetime, width: int) -> Table:
    wide, narrow = width >= _WIDE, width < _NARROW
    padding = (0, 1 if narrow else 2, 0, 0)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=padding)
    table.add_column("#", justify="right")
    table.add_column("pool", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    table.add_column("steps", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    if not narrow:
        table.add_column("notice", no_wrap=True)
    if wide:
        table.add_column("launched", no_wrap=True)
        table.add_column("reason", overflow="fold")
    for attempt in attempts:
        cells: list[str | Text] = [
            str(attempt.number),
            attempt.pool or NOTHING,
            _outcome(attempt),
            steps_text(attempt),
            took_text(attempt, now=now),
        ]
        if not narrow:
            cells.append(_time(attempt.noticed_at))
        if wide:
            cells += [_time(attempt.launched_at), _reason(attempt)]
        table.add_row(*cells)
    return table


def _reason(attempt: Attempt) -> str:
    if attempt.ended is not None:
        return brief(attempt.ended.reason)
    return attempt.plan if attempt.stage is AttemptStage.LAUNCHING else ""


def _outcome(attempt: Attempt) -> Text:
    if attempt.ended is not None:
        return Text(attempt.ended.kind.value, style=OUTCOME_STYLES[attempt.ended.kind])
    return Text(doing(attempt), style="cyan")


def _time(instant: datetime | None) -> str:
    return NOTHING if instant is None else say_instant(instant)[11:19]


def list_page(entries: Sequence[RunEntry], *, now: datetime, width: int) -> RenderableType:
    """Return a list of runs, one per line; names too long for the width get their own lines."""
    room = width - max((len(entry.run_id) for entry in entries), default=0) - _OTHER_COLUMNS
    if room < 0:
        return Group(*(_list_entry(entry, now=now) for entry in entries))
    wide, widest = room >= _MORE_COLUMNS, room >= _MORE_COLUMNS + _POOL_COLUMN
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("run", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for heading in ("step", "attempt", *(("interruptions",) if wide else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in (*(("pool",) if widest else ()), "started", *(("took",) if wide else ())):
        table.add_column(heading, no_wrap=True)
    for entry in entries:
        cells: list[str | Text] = [
            entry.run_id,
            Text(entry.status.value, style=STATUS_STYLES[entry.status]),
            short_name(entry.step, entry.save) if entry.has_checkpoint else NOTHING,
            str(entry.attempt or NOTHING),
        ]
        if wide:
            cells.append(str(entry.interruptions or NOTHING))
            cells += [entry.pool or NOTHING] if widest else []
            cells.append(say_instant(entry.started_at))
            cells.append(say_duration((entry.ended_at or now) - entry.started_at))
        else:
            cells.append(f"{say_duration(now - entry.started_at)} ago")
        table.add_row(*cells)
    return table


def _list_entry(entry: RunEntry, *, now: datetime) -> Text:
    parts = [name_of(entry.step, entry.save)] if entry.has_checkpoint else []
    parts += [f"attempt {entry.attempt}"] if entry.attempt else []
    parts.append(f"{say_duration(now - entry.started_at)} ago")
    return Text.assemble(
        (entry.run_id, ""),
        "\n  ",
        (entry.status.value, STATUS_STYLES[entry.status]),
        f" · {' · '.join(parts)}",
        overflow="ignore",
        no_wrap=True,
    )


def following_view(
    run_id: str, run: Run | None, attempts: Sequence[Attempt], *, now: datetime
) -> RenderableType:
    """Return the state of a run that is being followed, in a few lines."""
    if run is None:
        return Text.assemble((run_id, "bold"), "  ", ("pending", "dim"))
    status = derive_status(run, attempts)
    lines = [Text.assemble((run_id, "bold"), "  ", (status.value, STATUS_STYLES[status]))]
    if attempts:
        last = attempts[-1]
        parts = [f"attempt {last.number}"]
        parts += [last.pool] if last.pool else []
        parts += [doing(last) if last.ended is None else last.ended.kind.value]
        parts += [f"step {last.progress_step}"] if last.progress_step is not None else []
        parts += [took_text(last, now=now)] if last.launched_at is not None else []
        lines.append(Text("  " + " · ".join(parts)))
    counts = [f"checkpoint {checkpoint_text(run, now=now)}", *counts_text(attempts)]
    lines.append(Text(f"  {' · '.join(counts)}{' so far' if counts[1:] else ''}"))
    if attempts and (metrics := metrics_text(attempts[-1])):
        lines.append(Text(f"  {metrics}"))
    return Group(*lines, Text("  Ctrl-C leaves it running", style="dim"))


def summary(run: Run, attempts: Sequence[Attempt], *, width: int) -> Text:
    """Return in one line how a run ended, followed by its last lines if they are the reason."""
    status = derive_status(run, attempts)
    count = len(attempts)
    parts = [name_of(run.step, run.save)] if run.newest is not None else []
    parts.append(f"{count} attempt{'s' if count != 1 else ''}")
    parts += counts_text(attempts)
    if run.ended_at is not None:
        parts.append(say_duration(run.ended_at - run.started_at))
    text = Text.assemble((run.run_id, "bold"), " ", (status.value, STATUS_STYLES[status]))
    text.append(f": {', '.join(parts)}")
    if run.reason and status is not RunStatus.COMPLETED:
        text.append(f"\n{brief(run.reason)}")
        if "\n" in run.reason:
            text.append("\n").append_text(last_lines_text(run.reason, width=width))
    return text
