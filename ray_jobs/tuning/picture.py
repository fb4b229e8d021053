"""Parallel coordinates: each trial is a line through its settings to its score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import LogLocator, MaxNLocator

from ccvid.config import TrainOptions
from ccvid.retrieval.report.figures import INK, QUIET
from ray_jobs.tuning.records import TrialRecord
from ray_jobs.tuning.space import Parameter, Space
from ray_jobs.tuning.tables import shown_value, shown_values

GRID = "#98a2b3"
AXIS_INCHES = 1.75
"""Distance between two axes."""


def draw_parallel_coordinates(trials: Sequence[TrialRecord], space: Space, train: TrainOptions, title: str) -> Figure:
    """Draw the trials that have a score; the last axis is the score, as is the colour."""
    scored = [(score, record) for record in trials if (score := record.counted_score(train)) is not None]
    scored.sort(key=lambda pair: (pair[1].state == "finished", pair[0]))  # the best is drawn last, on top of the others
    scores = [score for score, _ in scored]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    if low == high:
        low, high = low - 0.01, high + 0.01
    columns = len(space.parameters) + 1
    figure = Figure(figsize=(max(7.5, AXIS_INCHES * columns + 1.2), 5.2), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.13, 1.0, 0.62))
    axes.set(xlim=(-0.55, columns - 0.3), ylim=(-0.04, 1.04))
    axes.axis("off")
    colours, spread = colormaps["viridis_r"], Normalize(low, high)
    for place, (score, record) in enumerate(scored):
        heights = [_height(each, record.values[each.name]) for each in space.parameters]
        best = place == len(scored) - 1
        _draw_line(axes, [*heights, (score - low) / (high - low)], colours(spread(score)), record.state, best)
    for column, parameter in enumerate(space.parameters):
        _draw_axis(axes, column, _label(parameter), _ticks(parameter))
    ticks = [(float((tick - low) / (high - low)), f"{tick:.1%}") for tick in MaxNLocator(5).tick_values(low, high)]
    _draw_axis(
        axes, columns - 1, "score: clothes-\nchanging mAP", [tick for tick in ticks if -1e-9 <= tick[0] <= 1 + 1e-9]
    )
    _write_captions(figure, title, trials, scored[-1][1] if scored else None)
    return figure


def _write_captions(figure: Figure, title: str, trials: Sequence[TrialRecord], best: TrialRecord | None) -> None:
    states = [record.state for record in trials]
    finished, stopped, failed = (states.count(state) for state in ("finished", "stopped", "failed"))
    figure.text(0.025, 0.945, title, size=13, weight="bold", color=INK)
    explained = f"Each line is a trial's setting and its score on held-out identities: {finished} finished"
    if stopped:
        explained += f"; {stopped} stopped early (thin and pale)"
    if failed:
        explained += f"; {failed} failed (not drawn)"
    columns = int(figure.get_figwidth() * 12)
    figure.text(0.025, 0.92, fill(explained, columns), size=8.5, va="top", color=QUIET)
    if best is not None:
        setting = f"Thick line: the best trial, {best.name}: {shown_values(best.values)}"
        figure.text(0.025, 0.075, fill(setting, columns), size=8.5, va="center", color=INK)


def _draw_line(axes: Axes, heights: Sequence[float], colour: Any, state: str, best: bool) -> None:
    """Draw a smooth line, so that lines that meet at a choice can be distinguished beyond it."""
    points, codes = [(0.0, heights[0])], [Path.MOVETO]
    for column, (left, right) in enumerate(pairwise(heights)):
        points += [(column + 0.4, left), (column + 0.6, right), (column + 1.0, right)]
        codes += [Path.CURVE4] * 3
    width, alpha = (3.4, 1.0) if best else (1.5, 0.85) if state == "finished" else (0.9, 0.3)
    axes.add_patch(PathPatch(Path(points, codes), facecolor="none", edgecolor=colour, linewidth=width, alpha=alpha))


def _draw_axis(axes: Axes, column: int, label: str, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot((column, column), (0, 1), color=GRID, linewidth=1.0, zorder=0.5)
    axes.text(column, 1.07, label, ha="center", va="bottom", size=8.5, weight="bold", color=INK)
    back = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
    for height, text in ticks:
        axes.plot((column - 0.02, column + 0.02), (height, height), color=QUIET, linewidth=1.0, zorder=3)
        axes.text(column - 0.045, height, text, ha="right", va="center", size=7.5, color=INK, bbox=back, zorder=4)


def _label(parameter: Parameter) -> str:
    section, _, field = parameter.name.rpartition(".")
    scale = "\n(log scale)" if parameter.kind == "log_range" else ""
    return f"{section}.\n{field}{scale}"


def _height(parameter: Parameter, value: Any) -> float:
    """Position along the axis, 0 to 1."""
    if parameter.kind == "choices":
        ordered = _ordered(parameter)
        return 0.5 if len(ordered) == 1 else ordered.index(value) / (len(ordered) - 1)
    low, high = parameter.values
    if parameter.kind == "log_range":
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


def _ordered(parameter: Parameter) -> list[Any]:
    """Choices from bottom to top: numbers sorted, others in the order of the file."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in parameter.values)
    return sorted(parameter.values) if numbers else list(parameter.values)


def _ticks(parameter: Parameter) -> list[tuple[float, str]]:
    if parameter.kind == "choices":
        return [(_height(parameter, value), f"{shown_value(value):.18}") for value in parameter.values]
    low, high = parameter.values
    if parameter.kind == "log_range":
        decades = LogLocator(subs=(1.0, 3.0) if high / low < 1e3 else (1.0,)).tick_values(low, high)
        inner = [float(tick) for tick in decades if low * 1.3 < tick < high / 1.3]
        return [(_height(parameter, tick), f"{tick:.3g}") for tick in (low, *inner, high)]
    ticks = np.unique([low, *MaxNLocator(5, integer=parameter.integer).tick_values(low, high), high])
    apart = [tick for tick in ticks if tick in (low, high) or 0.06 < (tick - low) / (high - low) < 0.94]
    return [(_height(parameter, tick), f"{tick:.3g}") for tick in apart]
