"""The plots of a sweep as PNG pictures, drawn without a display; matplotlib may be missing."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from runctl.model.errors import SetupError
from runctl.model.printable import printable
from runctl.plots.axes import Axis, CategoryAxis
from runctl.plots.facts import Point, SweepPlots

_DPI = 120
_MAX_LABEL = 24
_MAX_TITLE = 60
_WIDEST, _TALLEST = 60.0, 30.0
_BLUE, _ORANGE, _GREY, _RED = "#4878a8", "#e8743b", "#9a9a9a", "#c0392b"
# Of the trials with the same category, the better and the worse are drawn apart by this much.
_SPREAD = 0.05
# The end of the color map is too light for a line.
_LIGHTEST = 0.95
# Lines of many trials would cover each other.
_MANY_LINES = 100


def render_plots(plots: SweepPlots) -> dict[str, bytes]:
    """Return the pictures by the names of their files; SetupError if matplotlib is missing."""
    drawings: Mapping[str, Callable[[Any, SweepPlots], None]] = {
        "history.png": _draw_history,
        "importance.png": _draw_importance,
        "parallel-coordinates.png": _draw_parallel,
    }
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise SetupError("plots need matplotlib, which is missing") from exc
    pictures = {}
    for name, draw in drawings.items():
        figure: Any = Figure()
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
        # Draws without a display, whatever backend is configured.
        FigureCanvasAgg(figure)
        draw(figure, plots)
        written = io.BytesIO()
        with warnings.catch_warnings():
            # A character that the font lacks is drawn as a box.
            warnings.simplefilter("ignore", UserWarning)
            figure.savefig(written, format="png", dpi=_DPI)
        pictures[name] = written.getvalue()
    return pictures


def _draw_history(figure: Any, plots: SweepPlots) -> None:
    figure.set_size_inches(9, 5)
    axes = figure.add_subplot()
    _draw_points(axes, plots.pruned, label="pruned", marker="D", s=26, facecolor="none",
                 edgecolor=_GREY)  # fmt: skip
    _draw_points(axes, plots.completed, label="completed", s=30, color=_BLUE, linewidth=0)
    if plots.failed:
        # Failed trials have no value that counts: a cross at the lower edge.
        axes.plot(plots.failed, [0.02] * len(plots.failed), "x", color=_RED, label="failed",
                  transform=axes.get_xaxis_transform(), markersize=6)  # fmt: skip
    numbers = [point.number for point in plots.best_so_far]
    values = [point.value for point in plots.best_so_far]
    axes.step(numbers, values, where="post", color=_ORANGE, linewidth=2, label="best so far")
    best = plots.best
    axes.plot([best.number], [best.value], "*", color=_ORANGE, markersize=15,
              markeredgecolor="white", label=f"best: {best.value:.4g} (trial {best.number})",
              zorder=5)  # fmt: skip
    if plots.is_log:
        axes.set_yscale("log")
    axes.margins(x=0.03, y=0.09)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("trial")
    axes.set_ylabel(_label(plots.metric, _MAX_TITLE))
    _title(axes, plots, f"{_label(plots.metric)} by trial",
           f"{_aim(plots)}; {plots.counted}")  # fmt: skip
    axes.grid(visible=True, alpha=0.25)
    _remove_frame(axes, "top", "right")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)


def _draw_points(axes: Any, points: tuple[Point, ...], **style: Any) -> None:
    if points:
        axes.scatter(
            [point.number for point in points], [point.value for point in points], zorder=3, **style
        )


def _draw_importance(figure: Any, plots: SweepPlots) -> None:
    shown = plots.importances
    figure.set_size_inches(9, min(2.2 + 0.45 * len(shown), _TALLEST))
    axes = figure.add_subplot()
    rows = range(len(shown))
    axes.barh(rows, [importance.explained or 0 for importance in shown], color=_BLUE, height=0.6)
    for row, importance in enumerate(shown):
        explained = importance.explained
        text = importance.problem if explained is None else f"{explained:.0%}"
        axes.text((explained or 0) + 0.01, row, text, va="center",
                  color=_GREY if explained is None else "black")  # fmt: skip
    axes.set_yticks(rows, [_label(importance.name) for importance in shown])
    axes.invert_yaxis()
    # Room for the text of the longest bar.
    axes.set_xlim(0, 1.1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axes.set_xlabel("share of the variance of the trials' ranks that the hyperparameter explains")
    _title(axes, plots, f"importance for {_label(plots.metric)}",
           "Kruskal-Wallis effect size, (H \N{MINUS SIGN} k + 1) / (n \N{MINUS SIGN} k), of each "
           f"hyperparameter alone; {len(plots.completed)} completed trials")  # fmt: skip
    axes.grid(visible=True, axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    _remove_frame(axes, "top", "right", "left")
    axes.tick_params(axis="y", length=0)


def _draw_parallel(figure: Any, plots: SweepPlots) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    last = len(plots.axes) - 1
    figure.set_size_inches(min(max(9.0, 2.0 * len(plots.axes)), _WIDEST), 5.5)
    axes = figure.add_subplot()
    # The better a trial, the darker its line.
    colors = colormaps["viridis"]
    paths, styles = [], []
    for line in plots.lines:
        value = line.positions[-1]
        paths.append([
            (at, position + (_SPREAD * (value - 0.5) if isinstance(axis, CategoryAxis) else 0))
            for at, (axis, position) in enumerate(zip(plots.axes, line.positions, strict=True))
        ])  # fmt: skip
        color = colors(_LIGHTEST * line.distance)
        styles.append(
            (_ORANGE, "-", 3.0) if line.is_best
            else (_GREY, (0, (4, 3)), 0.9) if line.is_pruned
            else (color, "-", 1.4)
        )  # fmt: skip
    faint = 0.35 if len(plots.lines) > _MANY_LINES else 0.8
    axes.add_collection(
        LineCollection(
            paths,
            colors=[color for color, _, _ in styles],
            linestyles=[dashes for _, dashes, _ in styles],
            linewidths=[width for _, _, width in styles],
            alpha=[1.0 if line.is_best else faint for line in plots.lines],
        )
    )
    for at, axis in enumerate(plots.axes):
        _draw_axis(axes, at, axis, is_metric=at == last)
    axes.set_xlim(-0.3, last + 0.5)
    axes.set_ylim(-0.06, 1.06)
    names = [_label(axis.name) for axis in plots.axes]
    axes.set_xticks(range(len(names)), names)
    axes.get_xticklabels()[last].set_fontweight("bold")
    axes.tick_params(axis="x", length=0, pad=8)
    axes.set_yticks([])
    _remove_frame(axes, "top", "right", "bottom", "left")
    _title(axes, plots, "hyperparameters of each trial",
           f"{_aim(plots)}; {plots.counted}")  # fmt: skip
    _legend(figure, plots, better=colors(0.0), worse=colors(_LIGHTEST))


def _draw_axis(axes: Any, at: int, axis: Axis, *, is_metric: bool) -> None:
    axes.axvline(at, 0.05, 0.95, color="#333333", linewidth=1.6 if is_metric else 1.0, zorder=1)
    for position, label in axis.ticks:
        axes.plot([at, at + 0.02], [position, position], color="#333333", linewidth=1, zorder=4)
        axes.text(
            at + 0.035, position, _label(label), va="center", fontsize=9, zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        )  # fmt: skip


def _legend(figure: Any, plots: SweepPlots, *, better: Any, worse: Any) -> None:
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], color=_ORANGE, linewidth=3, label=f"best (trial {plots.best.number})"),
        Line2D([], [], color=better, label="better"),
        Line2D([], [], color=worse, label="worse"),
    ]
    if plots.pruned:
        entries.append(Line2D([], [], color=_GREY, linestyle="--", label="pruned"))
    figure.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False)


def _title(axes: Any, plots: SweepPlots, what: str, below: str) -> None:
    axes.set_title(f"{_label(plots.sweep, _MAX_TITLE)}: {what}", loc="left", pad=24,
                   fontsize=13, fontweight="bold")  # fmt: skip
    axes.annotate(below, (0, 1), xytext=(0, 8), xycoords="axes fraction",
                  textcoords="offset points", fontsize=9, color="#555555")  # fmt: skip


def _aim(plots: SweepPlots) -> str:
    return "higher is better" if plots.direction == "maximize" else "lower is better"


def _remove_frame(axes: Any, *sides: str) -> None:
    for side in sides:
        axes.spines[side].set_visible(False)


def _label(text: str, longest: int = _MAX_LABEL) -> str:
    """Return text as a label: not too long, and without a formula between dollar signs."""
    text = " ".join(printable(text).split())
    shown = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return shown.replace("$", r"\$")
