"""Pictures of thresholds: error curves, distributions of scores, and the reliability of probabilities."""

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
"""Lower end of log axes."""


def threshold_figures(thresholds: Thresholds) -> list[ExtraFigure]:
    """The report's pictures of thresholds, in this order."""
    name = thresholds.verification.protocol.name.replace("_", "-")
    errors = draw_errors(thresholds.verification, title="", recommended=thresholds.recommended)
    drawn = [
        ("Error rates at every threshold", errors, f"Same-person pairs are the matches of the {name} protocol.", True)
    ]
    if thresholds.reliability is not None:
        reliable = draw_reliability(thresholds.reliability, title="")
        half = "Calibrated on one half of the persons, checked on the pairs of the other half."
        drawn.append(("Reliability of the probabilities", reliable, half, False))
    figures = []
    for name, figure, caption, wide in drawn:
        svg = io.BytesIO()
        write_figure(figure, svg, "svg")
        figures.append(ExtraFigure(name, svg.getvalue().decode(), caption, wide))
    return figures


def draw_errors(verification: Verification, *, title: str, recommended: RecommendedThreshold | None = None) -> Figure:
    """ROC and DET curve over the false accept rate on a log scale, with the recommended threshold marked on both."""
    figure, (roc, det) = _figure(title, panels=2)
    far, tar, _ = np.array(verification.roc(400)).T
    seen = max(1 / verification.impostors, LOWEST_SHARE)
    floor = max(0.5 / len(verification.genuine_score_P), LOWEST_SHARE)  # where a rate of 0 is drawn
    eer = verification.equal_error_rate[0]
    names = "true accept rate (same person accepted)", "false reject rate (same person rejected)"
    for axes, curve, name in zip((roc, det), (tar, np.maximum(1 - tar, floor)), names, strict=True):
        axes.step(np.maximum(far, seen), curve, where="post", color=INK, linewidth=1.8)
        axes.set(xscale="log", xlim=(seen, 1), xlabel="false accept rate (different persons accepted)", ylabel=name)
        _per_cent(axes.xaxis)
    roc.set_ylim(0, 1.02)
    roc.set_title(f"ROC: AUC {verification.auc:.4f}", fontsize=9)
    det.set(yscale="log", ylim=(floor, 1))
    det.set_title("DET: both error rates, log scales", fontsize=9)
    chance = np.geomspace(seen, 1, 100)
    roc.plot(chance, chance, color=QUIET, linewidth=1, linestyle=":", label="chance")
    det.plot(chance, chance, color=QUIET, linewidth=1, linestyle="--", label="both error rates equal")
    det.plot(
        max(eer, seen), max(eer, floor), marker="o", color=QUIET, linestyle="", label=f"equal error rate {_share(eer)}"
    )
    if recommended is not None and recommended.far is not None and recommended.tar is not None:
        for axes, value, label in (
            (roc, recommended.tar.value, _threshold_label(recommended)),
            (det, 1 - recommended.tar.value, ""),
        ):
            place = max(recommended.far.value, seen), max(value, floor if axes is det else 0)
            axes.plot(*place, marker="D", color=WRONG, linestyle="", label=label, zorder=3)
    for axes in (roc, det):
        _per_cent(axes.yaxis)
    _legend_below(figure, [roc, det])
    return figure


def draw_scores(verification: Verification, *, title: str, recommended: RecommendedThreshold | None = None) -> Figure:
    """The distribution of scores of same and of different persons, with the recommended threshold."""
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
        axes.axvline(threshold.value, color=INK, linestyle=(0, (4, 2)), label=_threshold_label(recommended))
        interval = f"{100 * LEVEL:g} % interval of the threshold, for other persons"
        axes.axvspan(threshold.low, threshold.high, color=BAND, zorder=0, label=interval)
    margin = 0.02 * (edges[-1] - edges[0])
    axes.set(
        xlim=(edges[0] - margin, edges[-1] + margin),
        xlabel="score (higher: more similar)",
        ylabel="share of pairs per bin",
    )
    axes.set_ylim(bottom=0)
    _per_cent(axes.yaxis)
    _legend_below(figure, [axes])
    return figure


def draw_reliability(reliability: Reliability, *, title: str) -> Figure:
    """The observed share of same-person pairs for each predicted probability."""
    figure, (axes,) = _figure(title)
    axes.plot((0, 1), (0, 1), color=QUIET, linewidth=1, linestyle=":", label="perfectly calibrated")
    label = (
        f"pairs of held-out persons: {reliability.genuine_pairs:,} of the same,\n"
        f"{reliability.impostor_pairs:,} of different persons; dot area: share of pairs"
    )
    axes.plot(reliability.said_B, reliability.true_B, color=INK, linewidth=1)
    axes.scatter(reliability.said_B, reliability.true_B, s=500 * reliability.weight_B, color=INK, label=label)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set(xlabel="predicted probability", ylabel="observed share of same-person pairs")
    axes.set_title(
        f"calibration error (ECE) {reliability.expected_calibration_error:.3f} · Brier score {reliability.brier:.3f}"
        f" · prior {_share(reliability.prior)}",
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


def _threshold_label(recommended: RecommendedThreshold) -> str:
    threshold = recommended.threshold
    assert threshold is not None
    width = threshold.high - threshold.low  # scores may be close together: show the digits that differ
    digits = 3 if width >= 0.01 or width == 0 else min(8, 1 + int(np.ceil(-np.log10(width))))
    return f"threshold {threshold.value:.{digits}f} for a false accept rate of {_share(recommended.asked_far)}"


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"


def _per_cent(axis: object) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))  # type: ignore[attr-defined]
    axis.set_minor_formatter(NullFormatter())  # type: ignore[attr-defined]
