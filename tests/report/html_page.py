"""A second renderer of reports: HTML, from the same values as the command line's pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from runctl.report.descriptions import (
    checkpoint_text,
    failures_text,
    final_saves_text,
    machine_time_text,
    metrics_text,
    saving_texts,
    steps_text,
    took_text,
)
from runctl.report.follower import Tone
from runctl.report.reasons import brief, last_lines
from runctl.report.run_document import RunDocument
from runctl.report.run_list import RunEntry


def run_page(run: RunDocument) -> str:
    """Return the page of a run."""
    cost, last = run.cost, run.last_attempt
    facts = [
        ("program", " ".join(run.program)),
        ("reason", brief(run.entry.reason)),
        ("checkpoint", checkpoint_text(run)),
        *saving_texts(cost),
        ("metrics", "" if last is None else metrics_text(last.metrics)),
        ("machine time", machine_time_text(cost.machine_time)),
        ("failures", failures_text(cost)),
        ("final saves", final_saves_text(cost)),
    ]
    rows = [
        (str(a.number), a.pool, a.state, steps_text(a), took_text(a), brief(a.reason))
        for a in run.timeline
    ]
    output = last_lines(run.entry.reason) if "\n" in run.entry.reason else []
    return "".join(
        [
            f"<h1>{escape(run.run_id)} <em>{escape(run.status.value)}</em></h1>",
            *(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts if text),
            _table(rows),
            f"<pre>{escape(chr(10).join(output))}</pre>" if output else "",
            *(f"<p class=warning>{escape(text)}</p>" for text in run.warnings),
        ]
    )


def list_page(entries: Sequence[RunEntry]) -> str:
    """Return the page of a list."""
    return _table((e.run_id, e.status.value, str(e.attempt), e.pool) for e in entries)


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


class HtmlDisplay:
    """A display of a followed run that collects elements of a page."""

    def __init__(self) -> None:
        self.state = ""
        self.elements: list[str] = []

    def show(self, run_id: str, run: RunDocument | None) -> None:
        """Replace the page of the run."""
        self.state = f"<h1>{escape(run_id)}</h1>" if run is None else run_page(run)

    def announce(self, text: str, tone: Tone = Tone.NEUTRAL) -> None:
        """Add a change."""
        self.elements.append(f"<li class={tone.value}>{escape(text)}</li>")

    def log(self, text: str) -> None:
        """Add a line of output."""
        self.elements.append(f"<code>{escape(text)}</code>")
