"""Pictures of thresholds: the error curves, the scores behind them, and whether probabilities keep their word."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ccvid.retrieval.ranking.bootstrap import LEVEL
from ccvid.retrieval.report.ranked_picture import INK, QUIET, RIGHT, WRONG, write_figure
from ccvid.retrieval.report.report_input import ExtraFigure
from ccvid.retrieval.thresholds.calibration import Reliability
from ccvid.retrieval.thresholds.find import Thresholds
from ccvid.retrieval.thresholds.recommended import RecommendedThreshold
from ccvid.retrieval.thresholds.verification import Verification

GRID, BAND = "#e4e7ec", "#f2dcb0"
LOWEST_SHARE = 1e-6
"""Of the axes with a log scale."""


def threshold_figures(thresholds: Thresholds) -> list[ExtraFigure]:
    """What the report shows of thresholds, in this order."""
    name = thresholds.verification.protocol.name.replace("_", "-")
    errors = draw_errors(thresholds.verification, title="", recommended=thresholds.recommended)
    drawn = [("Errors at every threshold", errors, f"Pairs of one person are matches as {name} has them.", True)]
    if thresholds.reliability is not None:
        reliable = draw_reliability(thresholds.reliability, title="")
        half = "Fitted to one half of the persons, held against the pairs of the other half."
        drawn.append(("Reliability of the probabilities", reliable, half, False))
    figures = []
    for name, figure, caption, wide in drawn:
        svg = io.BytesIO()
        write_figure(figure, svg, "svg")
        figures.append(ExtraFigure(name, svg.getvalue().decode(), caption, wide))
    return figures


def draw_errors(verification: Verification, *, title: str, recommended: RecommendedThreshold | None = None) -> Figure:
    """ROC and DET curve over the false-accept rate on a log scale, the recommended threshold marked on both."""
    figure, (roc, det) = _figure(title, panels=2)
    far, tar, _ = np.array(verification.roc(400)).T
    seen = max(1 / verification.impostors, LOWEST_SHARE)
    floor = max(0.5 / len(verification.genuine_score_P), LOWEST_SHARE)  # where a rate of 0 is drawn
    eer = verification.equal_error_rate[0]
    names = "true-accept rate: same person recognised", "false-reject rate: same person missed"
    for axes, curve, name in zip((roc, det), (tar, np.maximum(1 - tar, floor)), names, strict=True):
        axes.step(np.maximum(far, seen), curve, where="post", color=INK, linewidth=1.8)
        axes.set(xscale="log", xlim=(seen, 1), xlabel="false-accept rate: different persons taken for one", ylabel=name)
        _per_cent(axes.xaxis)
    roc.set_ylim(0, 1.02)
    roc.set_title(f"ROC: area {verification.auc:.4f}", fontsize=9)
    det.set(yscale="log", ylim=(floor, 1))
    det.set_title("DET: both errors, on log scales", fontsize=9)
    chance = np.geomspace(seen, 1, 100)
    roc.plot(chance, chance, color=QUIET, linewidth=1, linestyle=":", label="chance")
    det.plot(chance, chance, color=QUIET, linewidth=1, linestyle="--", label="both errors equal")
    det.plot(
        max(eer, seen), max(eer, floor), marker="o", color=QUIET, linestyle="", label=f"equal error rate {_share(eer)}"
    )
    if recommended is not None and recommended.far is not None and recommended.tar is not None:
        for axes, value, label in (
            (roc, recommended.tar.value, _told(recommended)),
            (det, 1 - recommended.tar.value, ""),
        ):
            place = max(recommended.far.value, seen), max(value, floor if axes is det else 0)
            axes.plot(*place, marker="D", color=WRONG, linestyle="", label=label, zorder=3)
    for axes in (roc, det):
        _per_cent(axes.yaxis)
    _legend_below(figure, [roc, det])
    return figure


def draw_scores(verification: Verification, *, title: str, recommended: RecommendedThreshold | None = None) -> Figure:
    """How the scores of same and of different persons are distributed, with the recommended threshold."""
    figure, (axes,) = _figure(title)
    edges = verification.edge_B
    counts = len(verification.genuine_score_P), verification.impostors
    for share, color, name, count in zip(
        verification.histogram(), (RIGHT, WRONG), ("same person", "different persons"), counts, strict=True
    ):
        label = f"{name}: {count:,} pairs"
        axes.stairs(share, edges, color=color, linewidth=1.6, fill=False, label=label)
        axes.stairs(share, edges, color=color, alpha=0.15, fill=True)
    if recommended is not None and recommended.threshold is not None:
        threshold = recommended.threshold
        axes.axvline(threshold.value, color=INK, linestyle=(0, (4, 2)), label=_told(recommended))
        interval = f"where it would lie with other persons, {100 * LEVEL:g} % interval"
        axes.axvspan(threshold.low, threshold.high, color=BAND, zorder=0, label=interval)
    margin = 0.02 * (edges[-1] - edges[0])
    axes.set(
        xlim=(edges[0] - margin, edges[-1] + margin),
        xlabel="score: the higher, the more alike",
        ylabel="share of the pairs, by bin",
    )
    axes.set_ylim(bottom=0)
    _per_cent(axes.yaxis)
    _legend_below(figure, [axes])
    return figure


def draw_reliability(reliability: Reliability, *, title: str) -> Figure:
    """How often two tracklets that are given a probability do show one person."""
    figure, (axes,) = _figure(title)
    axes.plot((0, 1), (0, 1), color=QUIET, linewidth=1, linestyle=":", label="as often as said")
    label = (
        f"pairs of held-out persons: {reliability.genuine_pairs:,} of same,\n"
        f"{reliability.impostor_pairs:,} of different persons; a dot's area is their share"
    )
    axes.plot(reliability.said_B, reliability.true_B, color=INK, linewidth=1)
    axes.scatter(reliability.said_B, reliability.true_B, s=500 * reliability.weight_B, color=INK, label=label)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set(xlabel="probability that was said", ylabel="share of pairs that show one person")
    axes.set_title(
        f"mean distance (ECE) {reliability.expected_calibration_error:.3f} · Brier score {reliability.brier:.3f}"
        f" · if {_share(reliability.prior)} of pairs show one person",
        fontsize=9,
    )
    for axis in (axes.xaxis, axes.yaxis):
        _per_cent(axis)
    _legend_below(figure, [axes])
    return figure


def _figure(title: str, panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(6.4 + 4.4 * (panels - 1), 5), dpi=144, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("".join(c if c.isprintable() else "�" for c in title), fontsize=11, color=INK, parse_math=False)
    every = list(figure.subplots(1, panels, squeeze=False)[0])
    for axes in every:
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8)
    return figure, every


def _legend_below(figure: Figure, panels: Sequence[Axes]) -> None:
    entries = [entry for axes in panels for entry in zip(*axes.get_legend_handles_labels(), strict=True)]
    lines, labels = zip(*entries, strict=True)
    figure.legend(lines, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)


def _told(recommended: RecommendedThreshold) -> str:
    threshold = recommended.threshold
    assert threshold is not None
    width = threshold.high - threshold.low  # scores may all lie close together: show the digits that differ
    digits = 3 if width >= 0.01 or width == 0 else min(8, 1 + int(np.ceil(-np.log10(width))))
    return f"threshold {threshold.value:.{digits}f} for a false-accept rate of {_share(recommended.asked_far)}"


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"


def _per_cent(axis: object) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))  # type: ignore[attr-defined]
    axis.set_minor_formatter(NullFormatter())  # type: ignore[attr-defined]
