"""The charts of a report's first page, as SVG text: a function for each, listed in ``CHARTS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ccvid.retrieval.ranking.distances import Distances, Scores
from ccvid.retrieval.ranking.labels import joint_codes
from ccvid.retrieval.ranking.metrics import Evaluation
from ccvid.retrieval.report.figures import COLORS, INK, STYLE, inline_svg, legend_below
from ccvid.retrieval.report.report_input import ReportInput

DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 2)), (0, (2, 1)), (0, (6, 2, 1, 2)))
LONGEST_CURVE = 50
SAMPLE = 200_000
"""Most pairs of different persons in the chart of scores."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of the page: SVG text with a legend, its ids different from those of other charts."""

    name: str
    """What it shows, for screen readers."""
    svg: str
    caption: str
    """Plain text below it."""


def cmc_chart(report: ReportInput) -> Chart:
    """CMC of every protocol up to rank ``LONGEST_CURVE``."""
    with rc_context(STYLE):
        figure, axes = _figure()
        results = report.evaluation.results
        length = max(2, min(LONGEST_CURVE, len(report.evaluation.gallery)))
        style = zip(cycle(COLORS), cycle(DASHES))
        for (name, result), (color, dash) in zip(results.items(), style, strict=False):
            curve = result.cmc_curve(length)
            axes.plot(range(1, length + 1), 100 * curve, color=color, linestyle=dash, label=_shown(name), linewidth=1.8)
        axes.set(xlabel="rank", ylabel="queries with a match up to this rank", xlim=(1, length), ylim=(0, 101))
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        caption = "CMC: the share of queries with a match at this rank or before it."
        return Chart("CMC curves of every protocol", _svg(figure, "cmc"), caption)


def score_chart(report: ReportInput) -> Chart:
    """The distribution of scores for each kind of pair, as densities, with the threshold and its interval."""
    scores, threshold = pair_scores(report.evaluation, report.distances), report.threshold
    with rc_context(STYLE):
        figure, axes = _figure()
        everything = np.concatenate(list(scores.values()))
        bins = np.linspace(everything.min() - 0.01, everything.max() + 0.01, 61)
        for (name, values), color in zip(scores.items(), cycle(COLORS), strict=False):
            height, _ = np.histogram(values, bins, density=True)
            axes.stairs(height, bins, color=color, label=name, fill=True, alpha=0.25)
            axes.stairs(height, bins, color=color, linewidth=1.4)
        if threshold is not None:
            label = f"threshold {threshold.score:.3f}"
            axes.axvline(threshold.score, color=INK, linestyle=(0, (4, 2)), linewidth=1.2, label=label)
            if threshold.interval is not None:
                axes.axvspan(*threshold.interval, color=INK, alpha=0.12, linewidth=0, label="95 % interval")
        axes.set(xlabel="score", ylabel="density of pairs", ylim=(0, None))
        counts = "; ".join(f"{name} ({len(values):,} pairs)" for name, values in scores.items())
        overlap = "The less the curves overlap, the better a threshold separates matches from different persons."
        caption = f"Distribution of scores: {counts}. {overlap}"
        return Chart("Scores of same and different persons", _svg(figure, "scores"), caption)


CHARTS: tuple[Callable[[ReportInput], Chart | None], ...] = (
    cmc_chart,
    score_chart,
)
"""In the page's order; one that returns None is left out."""


def pair_scores(evaluation: Evaluation, distances: Distances) -> dict[str, Scores]:
    """Scores of the matches, split by same and different clothes if known, and of at most ``SAMPLE`` other pairs.

    The other pairs are drawn uniformly over queries and gallery, the same ones every time.
    """
    results = evaluation.results
    by_clothes = {"same_clothes": "same person, same clothes", "clothes_changing": "same person, different clothes"}
    if by_clothes.keys() <= results.keys():
        kinds = by_clothes
    else:
        first = next(iter(results))
        kinds = {first: "same person"}
    scores = {words: 1.0 - results[name].match_distance_M.astype(np.float64) for name, words in kinds.items()}
    random = np.random.Generator(np.random.PCG64(0))
    pairs = distances.shape[0] * distances.shape[1]
    chosen = np.arange(pairs) if pairs <= SAMPLE else random.integers(0, pairs, SAMPLE)
    query, gallery = np.divmod(chosen, distances.shape[1])
    person_Q, person_G = joint_codes(evaluation.query.person, evaluation.gallery.person)
    other = person_Q[query] != person_G[gallery]
    if other.any():
        scores["different persons"] = 1.0 - distances.pairs(query[other], gallery[other]).astype(np.float64)
    return scores


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, 3.7), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure, name: str) -> str:
    legend_below(figure, figure.axes, columns=3)
    return inline_svg(figure, name)


def _shown(name: str) -> str:
    return name.replace("_", "-")
