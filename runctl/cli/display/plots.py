"""Plots of metrics, in the terminal and as a picture; their libraries are the extra `plots`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runctl.model.errors import RequestError
from runctl.model.result_metrics import is_number
from runctl.report.comparison import Comparison, direction_of

INSTALL = "pip install 'runctl[plots]'"
MAX_PLOTS = 4
# The points of longer lines would cover them.
MAX_MARKED = 50
_HEIGHT = 14
_MAX_WIDTH = 100


def names_to_plot(comparison: Comparison, wanted: Sequence[str]) -> list[str]:
    """Return the metrics with a history to draw, those that were asked for or the first few."""
    drawn = {
        name: None
        for run in comparison.runs
        for name, history in run.histories.items()
        if len(history) > 1
    }
    if wanted:
        return [name for name in wanted if name in drawn]
    return [name for name in _by_interest(comparison) if name in drawn][:MAX_PLOTS]


def _by_interest(comparison: Comparison) -> list[str]:
    """Return the metrics: first those of which it is known which values are better.

    Those inside an object, such as one for each class, only if there are no others.
    """
    histories = (name for run in comparison.runs for name in run.histories)
    names = dict.fromkeys((*comparison.names, *histories))
    outer = [name for name in names if "." not in name] or list(names)
    return sorted(outer, key=lambda name: direction_of(name) is None)


def terminal_plot(comparison: Comparison, name: str, *, width: int, colored: bool) -> str | None:
    """Return the histories of a metric as text; None if the library is not installed."""
    try:
        import plotext
    except ImportError:
        return None
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plot_size(min(width, _MAX_WIDTH), _HEIGHT)
    for run, color in zip(comparison.runs, _colors(len(comparison.runs)), strict=True):
        if history := run.histories.get(name):
            steps, values = zip(*history, strict=True)
            plotext.plot(steps, values, label=run.run_id, color=color)
    plotext.title(name)
    plotext.xlabel("step")
    text = str(plotext.build())
    return text if colored else str(plotext.uncolorize(text))


def _colors(count: int) -> list[str]:
    known = ["blue", "orange", "green", "magenta", "cyan", "red"]
    return [known[number % len(known)] for number in range(count)]


def write_picture(comparison: Comparison, path: Path, wanted: Sequence[str]) -> list[str]:
    """Write a PNG with a plot of each metric: a history, or the results as bars.

    Returns the names of the metrics. Raises RequestError if there is nothing to draw, the library
    is missing, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise RequestError(f"--png: needs matplotlib, which is missing; {INSTALL}") from exc
    lines = names_to_plot(comparison, wanted)
    bars = [
        name
        for name in wanted or _by_interest(comparison)
        if name not in lines and any(is_number(run.metrics.get(name)) for run in comparison.runs)
    ]
    names = [*lines, *bars]
    if not names:
        raise RequestError("--png: the runs have no metric that is a number; nothing was written")
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(6.4 * columns, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.set_title(name)
        (_draw_lines if name in lines else _draw_bars)(axes, comparison, name)
    with contextlib.ExitStack() as stack:
        try:
            figure.savefig(stack.enter_context(path.open("wb")), format="png", dpi=100)
        except OSError as exc:
            raise RequestError(f"--png: {path} cannot be written: {exc.strerror}") from exc
    return names


def _draw_lines(axes: Any, comparison: Comparison, name: str) -> None:
    for number, run in enumerate(comparison.runs):
        if history := run.histories.get(name):
            steps, values = zip(*history, strict=True)
            marker = "." if len(steps) < MAX_MARKED else ""
            axes.plot(steps, values, label=run.run_id, color=f"C{number % 10}", marker=marker)
    axes.set_xlabel("step")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()


def _draw_bars(axes: Any, comparison: Comparison, name: str) -> None:
    found = [
        (number, run)
        for number, run in enumerate(comparison.runs)
        if is_number(run.metrics.get(name))
    ]
    values = [run.metrics[name] for _, run in found]
    colors = [f"C{number % 10}" for number, _ in found]
    drawn = axes.bar([run.run_id for _, run in found], values, color=colors)
    axes.bar_label(drawn, [f"{value:.4g}" for value in values])
