"""Charts as SVG text embedded in a page: CMC curves, and the scores of same and different persons."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ccvid.retrieval.ranking.distances import Distances, Scores
from ccvid.retrieval.ranking.labels import joint_codes
from ccvid.retrieval.ranking.metrics import Evaluation, ProtocolResult

INK = "#1f2a44"
"""Replaced by the page's text colour, so that charts follow dark mode."""
COLORS = ("#2f86c8", "#d9741a", "#1d9a72", "#b35fa0", "#8a8f98", "#c9493f", "#9a8a00")
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 2)), (0, (2, 1)), (0, (6, 2, 1, 2)))
LONGEST_CURVE = 50
SAMPLE = 200_000
"""Most pairs of different persons in the chart of scores."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, accessible and in the page's colour
    "text.parse_math": False,  # labels from data are not formulas
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans", "sans-serif"],
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
}


def cmc_chart(results: Mapping[str, ProtocolResult], gallery_size: int) -> str:
    """CMC of every protocol up to rank ``LONGEST_CURVE``."""
    with rc_context(STYLE):
        figure, axes = _figure()
        length = max(2, min(LONGEST_CURVE, gallery_size))
        style = zip(cycle(COLORS), cycle(DASHES))
        for (name, result), (color, dash) in zip(results.items(), style, strict=False):
            curve = result.cmc_curve(length)
            axes.plot(range(1, length + 1), 100 * curve, color=color, linestyle=dash, label=_shown(name), linewidth=1.8)
        axes.set(xlabel="rank", ylabel="queries with a match up to this rank", xlim=(1, length), ylim=(0, 101))
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure, "cmc")


def score_chart(
    scores: Mapping[str, Scores], threshold: float | None, interval: tuple[float, float] | None = None
) -> str:
    """The distribution of scores for each kind of pair, as densities, with the threshold and its interval."""
    with rc_context(STYLE):
        figure, axes = _figure()
        everything = np.concatenate(list(scores.values()))
        bins = np.linspace(everything.min() - 0.01, everything.max() + 0.01, 61)
        for (name, values), color in zip(scores.items(), cycle(COLORS), strict=False):
            height, _ = np.histogram(values, bins, density=True)
            axes.stairs(height, bins, color=color, label=name, fill=True, alpha=0.25)
            axes.stairs(height, bins, color=color, linewidth=1.4)
        if threshold is not None:
            axes.axvline(threshold, color=INK, linestyle=(0, (4, 2)), linewidth=1.2, label=f"threshold {threshold:.3f}")
        if interval is not None:
            axes.axvspan(*interval, color=INK, alpha=0.12, linewidth=0, label="95 % interval")
        axes.set(xlabel="score", ylabel="density of pairs", ylim=(0, None))
        return _svg(figure, "scores")


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
    """The chart with a legend below; ``name`` makes its ids differ from those of other charts on the page."""
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    text = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")


def _shown(name: str) -> str:
    return name.replace("_", "-")
