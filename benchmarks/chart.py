"""Results as a chart: a panel for each case, a bar for each contender."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, Result, Scale
from benchmarks.report import Measured, head, number

__all__ = ["save"]

_OURS, _PEERS, _MET, _NOT_MET = "#1f6fb4", "#b8bec6", "#1a7f37", "#c62828"
_COLUMNS, _WIDTH = 2, 9.0
_BAR, _FRAME, _HEAD = 0.25, 0.95, 0.9  # inches of height
_WIDE = 20  # a linear axis would hide what is this many times smaller than the largest

_Panel = tuple[Case, Sequence[tuple[Result, float]]]


def save(path: Path, scale: Scale, measured: Measured) -> None:
    """Draw the cases that have numbers.

    Args:
        path: Where to; its ending names the format.
        scale: For the heading.
        measured: Drawn in this order, column by column.

    Raises:
        ImportError: matplotlib is not installed.
    """
    # not by pyplot, which keeps what it draws and may look for a display: a bare figure draws with Agg
    figures = import_module("matplotlib.figure")
    columns = _columns([panel for panel in map(_panel, measured) if panel[1]])
    height = max(sum(map(_height, column)) for column in columns)
    figure = figures.Figure(figsize=(_WIDTH * len(columns), height + _HEAD), layout="constrained")
    figure.suptitle(f"{head(scale)}\nless is better", fontsize=10)
    _legend(figure)
    parts = figure.subfigures(1, len(columns), squeeze=False)[0]
    for part, column in zip(parts, columns, strict=True):
        _draw_column(part, column, height)
    figure.savefig(path, dpi=100)


def _panel(one: tuple[Case, Sequence[Result]]) -> _Panel:
    case, results = one
    return case, [(result, result.median) for result in results if result.median is not None]


def _height(panel: _Panel) -> float:
    return _FRAME + _BAR * len(panel[1])


def _columns(panels: Sequence[_Panel]) -> list[list[_Panel]]:
    """Columns of about the same height."""
    share = sum(map(_height, panels)) / _COLUMNS
    columns: list[list[_Panel]] = []
    height = 0.0
    for panel in panels:
        if not columns or (height + _height(panel) / 2 > share and len(columns) < _COLUMNS):
            columns.append([])
            height = 0.0
        columns[-1].append(panel)
        height += _height(panel)
    return columns


def _draw_column(part: Any, column: Sequence[_Panel], height: float) -> None:
    heights = [_height(panel) for panel in column]
    rest = height - sum(heights)
    rows = part.subplots(len(heights) + 1, 1, height_ratios=[*heights, max(rest, 0.01)], squeeze=False)[:, 0]
    rows[-1].set_axis_off()  # takes up what a shorter column leaves
    for axes, (case, results) in zip(rows, column, strict=False):
        _draw(axes, case, results)


def _draw(axes: Any, case: Case, results: Sequence[tuple[Result, float]]) -> None:
    medians = [median for _, median in results]
    limits = [goal.limit for result, _ in results for goal in result.goals if goal.limit]
    colours = [_OURS if result.ours else _PEERS for result, _ in results]
    axes.barh(range(len(results)), medians, height=0.7, color=colours)
    axes.set_yticks(range(len(results)), [result.name for result, _ in results], fontsize=8)
    axes.invert_yaxis()
    _scale(axes, [value for value in (*medians, *limits) if value > 0])
    for place, (result, median) in enumerate(results):
        _mark_goals(axes, place, result)
        _write(axes, place, median)
    axes.set_title(f"{case.name}: {case.title}", fontsize=8, loc="left", wrap=True)
    axes.set_xlabel(case.unit, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _scale(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis for wide ranges; room for the number beside the longest bar."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    if high > low * _WIDE:
        axes.set_xscale("log")
        axes.set_xlim(low / 2, high * (high / low) ** 0.12)
        axes.xaxis.set_minor_formatter(import_module("matplotlib.ticker").NullFormatter())
    else:
        axes.set_xlim(0, high * 1.1)


def _mark_goals(axes: Any, place: int, result: Result) -> None:
    """A line across the bar where each goal is, in the colour of what came of it."""
    for goal in result.goals:
        if goal.limit is not None:
            colour = _MET if goal.met else _NOT_MET
            axes.plot([goal.limit] * 2, [place - 0.45, place + 0.45], color=colour, linewidth=2.5)


def _write(axes: Any, place: int, median: float) -> None:
    axes.annotate(
        number(median),
        (median, place),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.7},
    )


def _legend(figure: Any) -> None:
    patch = import_module("matplotlib.patches").Patch
    line = import_module("matplotlib.lines").Line2D
    figure.legend(
        handles=[
            patch(color=_OURS, label="ours"),
            patch(color=_PEERS, label="peers"),
            line([], [], color=_MET, linewidth=2.5, label="goal, met"),
            line([], [], color=_NOT_MET, linewidth=2.5, label="goal, not met"),
        ],
        loc="outside lower center",
        ncols=4,
        fontsize=9,
    )
