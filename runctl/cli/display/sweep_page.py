"""The page of `runctl sweep status`: the progress of a sweep and its trials."""

import shlex
from collections.abc import Sequence
from datetime import datetime, timedelta

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runctl.cli.display.page_head import facts_table, heading
from runctl.model.sweep_options import ASHA, SweepOptions
from runctl.model.trial import Trial, TrialState
from runctl.report.descriptions import NOTHING, group_time_text
from runctl.report.reasons import brief
from runctl.report.sweep_document import SweepDocument, TrialEntry, took
from runctl.report.wording import format_count, format_duration, format_instant

# More trials than this are not listed one by one, unless all are wanted.
MAX_SHOWN = 40
STATE_STYLES = {
    TrialState.RUNNING: "cyan",
    TrialState.COMPLETED: "green",
    TrialState.PRUNED: "blue",
    TrialState.FAILED: "red",
    TrialState.STOPPED: "yellow",
    TrialState.STALE: "yellow",
    TrialState.UNKNOWN: "dim",
}


def sweep_page(sweep: SweepDocument, *, now: datetime, shows_all: bool = False) -> RenderableType:
    """Return the page of a sweep."""
    parts: list[RenderableType] = [
        heading(sweep.group.group_id, sweep.status),
        _facts(sweep, now=now),
    ]
    shown = sweep.trials if shows_all else _to_show(sweep)
    if shown:
        parts += ["", _trial_table(shown, sweep)]
    if hidden := len(sweep.trials) - len(shown):
        parts.append(Text(f"{format_count(hidden, 'more trial')}; --all lists all", style="dim"))
    for entry in shown:
        if entry.trial.reason and entry.trial.state in (TrialState.FAILED, TrialState.STALE):
            parts.append(
                Text(f"trial {entry.trial.number}: {brief(entry.trial.reason)}", style="dim")
            )
    return Group(*parts)


def progress_text(sweep: SweepDocument) -> str:
    """Return how far a sweep has come."""
    counted = ", ".join(f"{count} {state.value}" for state, count in sweep.counts.items())
    trials = format_count(sweep.options.trials, "trial")
    return f"{sweep.ended:,} of {trials}" + (f": {counted}" if counted else "")


def chosen_text(trial: Trial) -> str:
    """Return the hyperparameters of a trial."""
    return " ".join(f"{name}={value.text}" for name, value in trial.chosen.items())


def value_text(value: float | None) -> str:
    """Return a value in at most six digits."""
    return NOTHING if value is None else f"{value:.6g}"


def best_text(trial: Trial, options: SweepOptions) -> str:
    """Return the best trial in one line."""
    return (
        f"trial {trial.number}: {options.metric} {value_text(trial.value)} with "
        f"{chosen_text(trial)} ({trial.run_id})"
    )


def _facts(sweep: SweepDocument, *, now: datetime) -> Table:
    options, group, best = sweep.options, sweep.group, sweep.best
    lasting = format_duration(timedelta(seconds=took(group, now=now)))
    program = sweep.request.program
    words = program.command or ([program.script, *program.args] if program.script else ())
    metric = (
        f"{options.metric}, {options.direction}"
        if options.metric
        else "none; only a sweep with --metric NAME has a best trial"
    )
    rows = [
        ("program", shlex.join(words)),
        ("started", f"{format_instant(group.started_at)}, {lasting}"),
        ("sampler", options.sampler + (f", pruner {ASHA}" if options.pruner == ASHA else "")),
        ("metric", metric),
        ("instances", f"at most {options.instances}"),
        ("progress", progress_text(sweep)),
        ("machine time", "" if sweep.time is None else group_time_text(sweep.time)),
        ("best", "" if best is None else best_text(best, options)),
        ("reason", brief(group.reason)),
    ]
    return facts_table(rows)


def _to_show(sweep: SweepDocument) -> Sequence[TrialEntry]:
    """Return the trials to list: all of a few, otherwise the running, the best and the newest."""
    entries = sweep.trials
    if len(entries) <= MAX_SHOWN:
        return entries
    best = sweep.best
    newest = {entry.trial.number for entry in entries[-MAX_SHOWN // 2 :]}
    return [
        entry
        for entry in entries
        if entry.trial.number in newest
        or not entry.trial.has_ended
        or (best is not None and entry.trial.number == best.number)
    ]


def _trial_table(entries: Sequence[TrialEntry], sweep: SweepDocument) -> Table:
    names = list(sweep.options.hyperparameters)
    best = sweep.best
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("#", justify="right")
    table.add_column("state", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    if sweep.options.metric:
        table.add_column(sweep.options.metric, justify="right", no_wrap=True)
    table.add_column("attempts", justify="right", no_wrap=True)
    for entry in entries:
        trial = entry.trial
        is_best = best is not None and trial.number == best.number
        cells: list[str | Text] = [
            str(trial.number),
            Text(trial.state.value, style=STATE_STYLES[trial.state]),
            *(trial.chosen[name].text if name in trial.chosen else NOTHING for name in names),
        ]
        if sweep.options.metric:
            value = value_text(trial.value)
            cells.append(Text(f"{value} *" if is_best else value, style="bold" if is_best else ""))
        cells.append(NOTHING if entry.attempts is None else str(entry.attempts))
        table.add_row(*cells)
    return table
