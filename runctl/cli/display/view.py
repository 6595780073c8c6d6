"""How a run looks to a person: the pages of `status` and `list`, and the view while following."""

import shlex
from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runctl.cli.display.reasons import brief, last_lines_text
from runctl.model.checkpoint import name_of
from runctl.model.outcome import OutcomeKind, RunStatus
from runctl.model.plain_secrets import mask_words
from runctl.model.run import Attempt, AttemptStage, Run, derive_status
from runctl.model.saving import Saving
from runctl.model.versions import Versions
from runctl.report.documents import (
    failures,
    interruptions,
    unfinished_final_saves,
    warnings_of,
)
from runctl.report.wording import say_duration, say_instant, say_short, say_size

STATUS_STYLES = {
    RunStatus.PENDING: "dim",
    RunStatus.LAUNCHING: "cyan",
    RunStatus.TRAINING: "bold cyan",
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
# From here on a table has room for a reason beside the rest.
_WIDE = 120
# Below this there is no room for every column of the attempts.
_NARROW = 76
# What the other columns of a list take at most.
_BESIDE_NAMES = 46
# From so many on it is no accident.
_REPEATED = 2
_NOTHING = "–"


def status_page(
    run: Run,
    attempts: Sequence[Attempt],
    versions: Versions | None = None,
    *,
    now: datetime,
    width: int,
) -> RenderableType:
    """Show one run: what it is, how it stands, and each attempt."""
    status = derive_status(run, attempts)
    parts: list[RenderableType] = [
        Text.assemble((run.run_id, "bold"), "  ", (status.value, STATUS_STYLES[status])),
        _facts(run, attempts, versions, now=now),
    ]
    if attempts:
        parts += ["", _attempt_table(attempts, now=now, width=width)]
        if width < _WIDE:
            parts += [
                Text(f"attempt {one.number}: {brief(one.ended.reason)}", style="dim")
                for one in attempts
                if one.ended is not None and one.ended.reason not in {"", run.reason}
            ]
    if "\n" in run.reason:
        parts += ["", Text("it ended with", style="dim"), last_lines_text(run.reason, width=width)]
    parts += [Text(f"warning: {text}", style="yellow") for text in warnings_of(attempts)]
    return Group(*parts)


def _facts(
    run: Run, attempts: Sequence[Attempt], versions: Versions | None, *, now: datetime
) -> Table:
    request = run.request
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    program = [request.script, *request.args] if request.script else list(request.command)
    facts.add_row("program", shlex.join(mask_words(program, request.not_secrets)))
    took = say_duration((run.ended_at or now) - run.started_at)
    facts.add_row("started", f"{say_instant(run.started_at)}, {_lasting(run, took)}")
    if run.reason:
        facts.add_row("reason", brief(run.reason))
    facts.add_row("checkpoint", checkpoint_text(run, now=now))
    for label, told in saving_texts(attempts):
        facts.add_row(label, told)
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
    retry = run.request.retry
    limit = f", up to {retry.max_failures} are retried" if retry.is_on else ""
    return f"{failed} of the trainer{limit}"


def _lasting(run: Run, took: str) -> str:
    return f"took {took}" if run.ended_at is not None else f"{took} ago"


def checkpoint_text(run: Run, *, now: datetime) -> str:
    """Say which checkpoint is the newest and how old it is."""
    if run.newest is None or run.committed_at is None:
        return "none yet" if run.ended is None else "none"
    return f"{name_of(run.step, run.save)}, {say_duration(now - run.committed_at)} ago"


def saving_texts(attempts: Sequence[Attempt]) -> list[tuple[str, str]]:
    """Say how often the newest live attempt saves and why, and what a notice would be enough for.

    Each with its label; nothing about what is not known.
    """
    known = [one.saving for one in attempts if one.ended is None and one.saving is not None]
    if not known:
        return []
    saving = known[-1]
    return [
        (label, text)
        for label, text in (("interval", _interval(saving)), ("last save", _last_save(saving)))
        if text
    ]


def final_saves_text(attempts: Sequence[Attempt]) -> str:
    """Say how many final saves missed their grace period, and after several what to do."""
    missed = unfinished_final_saves(attempts)
    if not missed:
        return ""
    numbers = ", ".join(str(one.number) for one in missed)
    attempts_text = f"attempt{'' if len(missed) == 1 else 's'} {numbers}"
    text = f"{len(missed)} did not finish within the grace period ({attempts_text})"
    given = missed[-1].saving
    if len(missed) < _REPEATED or given is None or given.missed_grace is None:
        return text
    return (
        f"{text}: the last one had {say_short(given.missed_grace)}; raise "
        "checkpoint.grace_seconds (at most 90), save less at the end, or save more often"
    )


def _interval(saving: Saving) -> str:
    if saving.every is None:
        return ""
    every = f"every {say_short(saving.every)}"
    if saving.is_fixed:
        return f"{every}, as the request says"
    if saving.cost is None or saving.uptime is None:
        return f"{every}, until a first save shows what a save costs"
    return (
        f"{every}: a save costs {say_short(saving.cost)}, "
        f"an interruption every {say_short(saving.uptime)} is expected"
    )


def _last_save(saving: Saving) -> str:
    if saving.size_bytes is None:
        return ""
    what = say_size(saving.size_bytes)
    if saving.bytes_per_second is not None:
        what += f" at {say_size(saving.bytes_per_second)}/s"
    if saving.last_save is None or saving.notice is None:
        return what
    fits = "fits" if saving.fits_notice else "does not fit"
    return (
        f"{what} {fits} into a notice: {say_short(saving.last_save)} of {say_short(saving.notice)}"
    )


def metrics_text(attempt: Attempt) -> str:
    """Say the last values that the trainer told; its step has a place of its own."""
    values = ((name, value) for name, value in attempt.metrics.items() if name != "step")
    return " · ".join(f"{name} {_number(value)}" for name, value in values)


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


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
    for one in attempts:
        cells: list[str | Text] = [
            str(one.number),
            one.pool or _NOTHING,
            _outcome(one),
            _steps(one),
            _took(one, now=now),
        ]
        if not narrow:
            cells.append(_time(one.noticed_at))
        if wide:
            reason = brief(one.ended.reason) if one.ended is not None else ""
            cells += [_time(one.launched_at), reason]
        table.add_row(*cells)
    return table


def _outcome(attempt: Attempt) -> Text:
    if attempt.ended is not None:
        return Text(attempt.ended.kind.value, style=OUTCOME_STYLES[attempt.ended.kind])
    return Text(doing(attempt), style="cyan")


def doing(attempt: Attempt) -> str:
    """Say what a live attempt is at: its phase once the agent tells one."""
    if attempt.stage is AttemptStage.LAUNCHING or not attempt.phase:
        return "booting" if attempt.stage is AttemptStage.LAUNCHED else attempt.stage.value
    return attempt.phase


def _steps(attempt: Attempt) -> str:
    if not attempt.was_launched:
        return _NOTHING
    started_anew = attempt.resume_step is None and not attempt.resume_save
    start = "start" if started_anew else _short_name(attempt.resume_step, attempt.resume_save)
    last = attempt.ended.step if attempt.ended is not None else None
    known = [one for one in (attempt.progress_step, last) if one is not None]
    if known:
        return f"{start} → {max(known)}"
    save = attempt.ended.save if attempt.ended is not None else None
    return f"{start} → {'…' if not save else _short_name(None, save)}"


def _short_name(step: int | None, save: int | None) -> str:
    """Name a checkpoint in a column of steps."""
    return f"save {save or 0}" if step is None else str(step)


def _time(instant: datetime | None) -> str:
    return _NOTHING if instant is None else say_instant(instant)[11:19]


def _took(attempt: Attempt, *, now: datetime) -> str:
    if attempt.launched_at is None:
        return _NOTHING
    return say_duration((attempt.ended_at or now) - attempt.launched_at)


def list_page(
    runs: Sequence[tuple[Run, Sequence[Attempt]]], *, now: datetime, width: int
) -> RenderableType:
    """Show many runs, one a line; names that are too long for that have a line of their own."""
    if max((len(run.run_id) for run, _ in runs), default=0) + _BESIDE_NAMES > width:
        return Group(*(_list_entry(run, attempts, now=now) for run, attempts in runs))
    wide = width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("run", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for heading in ("step", "attempt", *(("interruptions",) if wide else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("started", "took") if wide else ("started",):
        table.add_column(heading, no_wrap=True)
    for run, attempts in runs:
        status = derive_status(run, attempts)
        cells: list[str | Text] = [
            run.run_id,
            Text(status.value, style=STATUS_STYLES[status]),
            _NOTHING if run.newest is None else _short_name(run.step, run.save),
            str(attempts[-1].number) if attempts else _NOTHING,
        ]
        if wide:
            cells.append(str(interruptions(attempts) or _NOTHING))
            cells.append(say_instant(run.started_at))
            cells.append(say_duration((run.ended_at or now) - run.started_at))
        else:
            cells.append(f"{say_duration(now - run.started_at)} ago")
        table.add_row(*cells)
    return table


def _list_entry(run: Run, attempts: Sequence[Attempt], *, now: datetime) -> Text:
    status = derive_status(run, attempts)
    told = [name_of(run.step, run.save)] if run.newest is not None else []
    told += [f"attempt {attempts[-1].number}"] if attempts else []
    told.append(f"{say_duration(now - run.started_at)} ago")
    return Text.assemble(
        (run.run_id, ""),
        "\n  ",
        (status.value, STATUS_STYLES[status]),
        f" · {' · '.join(told)}",
        overflow="ignore",
        no_wrap=True,
    )


def following_view(
    run_id: str, run: Run | None, attempts: Sequence[Attempt], *, now: datetime
) -> RenderableType:
    """Show how a run that is being followed stands, in a few lines."""
    if run is None:
        return Text.assemble((run_id, "bold"), "  ", ("pending", "dim"))
    status = derive_status(run, attempts)
    lines = [Text.assemble((run_id, "bold"), "  ", (status.value, STATUS_STYLES[status]))]
    if attempts:
        last = attempts[-1]
        told = [f"attempt {last.number}"]
        told += [last.pool] if last.pool else []
        told += [doing(last) if last.ended is None else last.ended.kind.value]
        told += [f"step {last.progress_step}"] if last.progress_step is not None else []
        told += [_took(last, now=now)] if last.launched_at is not None else []
        lines.append(Text("  " + " · ".join(told)))
    counts = [f"checkpoint {checkpoint_text(run, now=now)}", *_counts(attempts)]
    lines.append(Text(f"  {' · '.join(counts)}{' so far' if counts[1:] else ''}"))
    if attempts and (metrics := metrics_text(attempts[-1])):
        lines.append(Text(f"  {metrics}"))
    return Group(*lines, Text("  Ctrl-C leaves it going", style="dim"))


def summary(run: Run, attempts: Sequence[Attempt], *, width: int) -> Text:
    """Say in one line how a run ended, and what it said last if that is why."""
    status = derive_status(run, attempts)
    count = len(attempts)
    told = [name_of(run.step, run.save)] if run.newest is not None else []
    told.append(f"{count} attempt{'s' if count != 1 else ''}")
    told += _counts(attempts)
    if run.ended_at is not None:
        told.append(say_duration(run.ended_at - run.started_at))
    text = Text.assemble((run.run_id, "bold"), " ", (status.value, STATUS_STYLES[status]))
    text.append(f": {', '.join(told)}")
    if run.reason and status is not RunStatus.COMPLETED:
        text.append(f"\n{brief(run.reason)}")
        if "\n" in run.reason:
            text.append("\n").append_text(last_lines_text(run.reason, width=width))
    return text


def _counts(attempts: Sequence[Attempt]) -> list[str]:
    """Say how often machines were taken and how often the trainer failed by itself."""
    counts = {"interruption": interruptions(attempts), "failure": failures(attempts)}
    return [f"{many} {what}{'s' if many > 1 else ''}" for what, many in counts.items() if many]
