"""The page of a processing job on several instances, and its view while it is followed."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runctl.cli.display.page_head import facts_table, heading
from runctl.cli.display.styles import STATUS_STYLES
from runctl.report.descriptions import describe_shards, group_time_text
from runctl.report.processing_job import JobDocument
from runctl.report.reasons import brief
from runctl.report.wording import format_count, format_duration, format_instant


def job_page(job: JobDocument) -> RenderableType:
    """Return the page of a job: its state, and its runs."""
    parts: list[RenderableType] = [heading(job.group.group_id, job.status), _facts(job)]
    if job.runs:
        parts += ["", _runs(job)]
    return Group(*parts)


def job_view(job: JobDocument) -> RenderableType:
    """Return the state of a job that is being followed, in a few lines."""
    active = sum(not run.entry.has_ended for run in job.runs)
    have = "has" if job.batches == 1 else "have"
    runs = f"{len(job.runs):,} of {format_count(job.batches, 'run')} {have} begun, {active} active"
    shards = describe_shards(job.shards, has_ended=job.group.ended is not None)
    return Group(
        heading(job.group.group_id, job.status),
        Text(f"  shards {shards}"),
        Text(f"  {runs}"),
        Text("  Ctrl-C leaves it running", style="dim"),
    )


def _facts(job: JobDocument) -> Table:
    group = job.group
    took = format_duration((group.ended_at or job.read_at) - group.started_at)
    lasting = f"{took} ago" if group.ended_at is None else f"took {took}"
    return facts_table(
        (
            ("started", f"{format_instant(group.started_at)}, {lasting}"),
            ("reason", brief(group.reason)),
            ("shards", describe_shards(job.shards, has_ended=group.ended is not None)),
            ("machine time", group_time_text(job.time)),
            ("output", job.output),
        )
    )


def _runs(job: JobDocument) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("run", "status", "shards", "attempts"):
        table.add_column(column, no_wrap=True)
    for run in job.runs:
        shards = "" if run.shards is None else f"{run.shards.ended} of {run.shards.total}"
        status = Text(run.status.value, style=STATUS_STYLES[run.status])
        table.add_row(run.run_id, status, shards, str(len(run.timeline)))
    return table
