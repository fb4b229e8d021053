"""Where models stand: accuracy against cost, what costs most, and the queries that all miss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from rich import box
from rich.table import Table

from ccvid.model_cost import ModelCost
from ccvid.retrieval.ranking.attribute_costs import ValueCost
from ccvid.retrieval.ranking.protocol_hash import SHOWN
from ccvid.retrieval.report.changes import RankedResult, ranked_row
from ccvid.retrieval.report.charts import Chart
from ccvid.retrieval.report.figures import COLORS, QUIET, STYLE, inline_svg
from ccvid.retrieval.report.filmstrips import Row, Tracklets, View, write_filmstrips
from ccvid.retrieval.report.folder import report_folder, write_page
from ccvid.retrieval.report.referee import Figures, percent
from ccvid.retrieval.report.tables import table_lines

MOST_MISSED = 200
"""Queries that all models miss, shown as filmstrips."""
LINE_HEIGHT = 11
"""Of a point's name in a chart, in points."""
COST_NOTE = (
    "Difference: the mean average precision of the queries with this value minus that of all others, the mean over the "
    "models, with a 95 % interval of a bootstrap over persons. A camera pair is a query's camera and a camera that is "
    "searched by itself. Values often come together, so the table says where to look, not what the cause is."
)


@dataclass(frozen=True, slots=True)
class Standing:
    """Models whose results answer the same question: one protocol with one hash."""

    dataset: str
    protocol: str
    hash: str
    models: Mapping[str, tuple[Figures, ModelCost | None]]
    costs: Sequence[ValueCost]
    left_out: Mapping[str, str]
    results: Sequence[RankedResult]
    missed: Sequence[int]
    """Queries whose first rank is wrong in every result, the worst first: places in the results."""

    @property
    def name(self) -> str:
        return f"{self.protocol.replace('_', '-')} on {self.dataset}"

    def to_json(self) -> dict[str, object]:
        return {
            "dataset": self.dataset,
            "protocol": self.protocol,
            "hash": self.hash,
            "models": {
                name: {
                    "map": found.map.to_json(),
                    "top-1": found.top1.to_json(),
                    "cost": None if cost is None else cost.model_dump(mode="json"),
                }
                for name, (found, cost) in self.models.items()
            },
            "attributes": [cost.to_json() for cost in self.costs],
            "left_out": dict(self.left_out),
            "missed_by_all": [self.results[0].scores.ids[query] for query in self.missed],
        }


def missed_by_all(results: Sequence[RankedResult]) -> list[int]:
    """The queries whose first rank is wrong in every result, by the mean of their average precisions."""
    top1_RQ, precision_RQ = (np.stack([result.scores.figures[name] for result in results]) for name in ("top-1", "map"))
    missed = np.flatnonzero(~top1_RQ.any(0))
    return missed[np.argsort(precision_RQ.mean(0)[missed], kind="stable")].tolist()  # type: ignore[no-any-return]


def standing_text(groups: Sequence[Standing]) -> str:
    """What costs most, as plain text."""
    lines: list[str] = []
    for group in groups:
        table = Table(title=f"{group.name}: what costs most (%)", title_justify="left", box=box.SIMPLE_HEAD)
        for heading in ("attribute", "value"):
            table.add_column(heading)
        for heading in COST_HEADINGS:
            table.add_column(heading, justify="right")
        for cost in group.costs:
            table.add_row(cost.attribute, cost.value, *_cost_cells(cost))
        lines += ["", *table_lines(table)]
        lines += [f"  {name}: left out ({reason})" for name, reason in group.left_out.items()]
        lines += [f"  {_missed_words(group)}"]
    return "\n".join(lines).strip("\n")


COST_HEADINGS = ("difference", "95 % interval", "mAP", "queries", "persons")


def write_standing(
    groups: Sequence[Standing], tracklets: Tracklets, number_of: Mapping[str, int], folder: Path, title: str
) -> None:
    """Write the pages, completely or not at all.

    Args:
        tracklets: of all queries and rankings; ``number_of`` gives their indices by id.

    Raises:
        InputError: like ``report_folder``.
    """
    views = [_missed_view(group, tracklets, number_of) for group in groups if group.missed]
    shown = {
        "title": title,
        "groups": [_group(number, group) for number, group in enumerate(groups)],
        "has_filmstrips": bool(views),
        "headings": COST_HEADINGS,
        "cost_note": COST_NOTE,
    }
    with report_folder(folder) as new:
        if views:
            write_filmstrips(new, views)
            page = {"title": title, "facts": {}, "has_overview": True}
            write_page(new, "filmstrips.html", "filmstrips.html.j2", page)
        write_page(new, "index.html", "standing.html.j2", shown)


def cost_charts(group: Standing, number: int) -> list[Chart]:
    """mAP against milliseconds a clip and against parameters, of the models for which they are known."""
    kinds: tuple[tuple[str, Callable[[ModelCost], float | None]], ...] = (
        ("milliseconds a clip", lambda cost: cost.milliseconds),
        ("parameters (millions)", lambda cost: cost.parameters and cost.parameters / 1e6),
    )
    charts = []
    for label, value_of in kinds:
        points = [
            (name, value, found)
            for name, (found, cost) in group.models.items()
            if cost is not None and (value := value_of(cost)) is not None
        ]
        if points:
            caption = f"mAP {group.name} against {label}, with 95 % intervals. Up and to the left is better."
            charts.append(Chart(caption, _cost_svg(points, label, f"cost{number}-{label[0]}"), caption))
    return charts


def _cost_svg(points: Sequence[tuple[str, float, Figures]], label: str, name: str) -> str:
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.7), layout="constrained")
        axes = figure.add_subplot()
        for number, (_, value, found) in enumerate(points):
            low, middle, high = (100 * share for share in (found.map.low, found.map.value, found.map.high))
            color = COLORS[number % len(COLORS)]
            axes.plot([value, value], [low, high], color=color, linewidth=1.4)
            axes.plot([value], [middle], "o", color=color, markersize=5)
        values = [value for _, value, _ in points]
        axes.set(xlabel=label, ylabel="mAP (%)", xscale="log", xlim=(min(values) / 1.5, max(values) * 2.5))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:,g}")
        _name_points(figure, axes, points)
        return inline_svg(figure, name)


def _name_points(figure: Figure, axes: Axes, points: Sequence[tuple[str, float, Figures]]) -> None:
    """Names to the right of their points, moved up where they would cover one another."""
    figure.draw_without_rendering()
    scale = 72 / figure.dpi
    place_of = {name: axes.transData.transform((value, 100 * found.map.value)) * scale for name, value, found in points}
    taken = -np.inf
    for name, value, found in sorted(points, key=lambda point: place_of[point[0]][1]):
        height = place_of[name][1]
        taken = max(height, taken + LINE_HEIGHT)
        axes.annotate(
            name if len(name) <= 40 else f"{name[:39]}…",
            (value, 100 * found.map.value),
            xytext=(8, taken - height),
            textcoords="offset points",
            va="center",
            fontsize=8,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": QUIET, "linewidth": 0.5} if taken > height else None,
        )


def _group(number: int, group: Standing) -> dict[str, object]:
    machines = sorted({cost.machine for _, cost in group.models.values() if cost is not None})
    return {
        "name": group.name,
        "hash": group.hash[:SHOWN],
        "charts": cost_charts(group, number),
        "models": [_model_row(name, *found) for name, found in group.models.items()],
        "machines": machines,
        "costs": [
            (cost.attribute, cost.value, _cost_cells(cost), "costly" if cost.difference.high < 0 else "")
            for cost in group.costs
        ],
        "left_out": group.left_out,
        "missed": _missed_words(group),
        "view": group.name if group.missed else None,
    }


def _model_row(name: str, found: Figures, cost: ModelCost | None) -> tuple[str, list[tuple[str, str]]]:
    work = [("–", "")] * 3
    if cost is not None:
        counts = ((cost.parameters, 1e6), (cost.flops, 1e9))
        work = [
            (f"{cost.milliseconds:,.1f}", ""),
            *(("–" if n is None else f"{n / unit:,.1f}", "") for n, unit in counts),
        ]
    return name, [percent(found.map), percent(found.top1), *work]


def _cost_cells(cost: ValueCost) -> tuple[str, ...]:
    value, between = percent(cost.difference, sign="+")
    return value, between, f"{100 * cost.mean:.1f}", f"{cost.queries:,}", f"{cost.persons:,}"


def _missed_words(group: Standing) -> str:
    queries, models = len(group.results[0].scores.ids), len(group.results)
    who = f"{models} models all miss" if models > 1 else "The model misses"
    words = f"{who} {len(group.missed):,} of {queries:,} queries (rank 1 is another person)"
    return words if len(group.missed) <= MOST_MISSED else f"{words}; the worst {MOST_MISSED} are shown"


def _missed_view(group: Standing, tracklets: Tracklets, number_of: Mapping[str, int]) -> View:
    order = "One row for each model, the queries with the lowest average precision first. Junk is not shown."
    description = f"{_missed_words(group)}. {order}"
    orders = ("hardest first", "easiest first")
    rows = _missed_rows(group, tracklets, number_of)
    return View(group.name, description, orders, tracklets, tracklets, rows, MEASURE, counted="rankings")


MEASURE = "average precision in per cent, the mean over the models"


def _missed_rows(group: Standing, tracklets: Tracklets, number_of: Mapping[str, int]) -> Iterator[Row]:
    for query in group.missed[:MOST_MISSED]:
        mean = float(np.mean([result.scores.figures["map"][query] for result in group.results]))
        for result in group.results:
            yield ranked_row(result, query, tracklets, number_of, value=round(100 * mean, 1))
