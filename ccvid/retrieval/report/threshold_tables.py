"""Thresholds and error rates as lines of text and as tables in the report."""

from __future__ import annotations

from collections.abc import Sequence

from ccvid.retrieval.ranking.bootstrap import Interval
from ccvid.retrieval.ranking.single_shot import Spread
from ccvid.retrieval.report.report_input import ExtraTable
from ccvid.retrieval.thresholds.find import Thresholds
from ccvid.retrieval.thresholds.recommended import RecommendedThreshold


def threshold_lines(thresholds: Thresholds | None, without: str = "") -> list[str]:
    """Lines for ``metrics.txt``, below its tables; ``without`` is the reason if there are no thresholds."""
    if thresholds is None:
        return [f"  no thresholds: {without}"]
    name = thresholds.verification.protocol.name.replace("_", "-")
    recommended, lines = thresholds.recommended, []
    far = _per_cent(recommended.asked_far)
    if recommended.threshold is None or recommended.far is None or recommended.tar is None:
        lines.append(f"  no threshold for a false accept rate of {far}: {recommended.reason}")
    else:
        lines += [
            f"  threshold for a false accept rate of {far}: score >= {_interval(recommended.threshold, '.4f', 1)}; "
            f"it accepts {_interval(recommended.tar, '.1f')} % of the {name} matches",
            _elsewhere(recommended),
        ]
    eer = thresholds.verification.equal_error_rate[0]
    lines.append(f"  verification, {name}: equal error rate {_per_cent(eer)}, AUC {thresholds.verification.auc:.4f}")
    if (found := thresholds.reliability) is not None:
        error = found.expected_calibration_error
        brier = f"Brier score {found.brier:.3f}"
        lines.append(f"  probabilities, on the held-out half: expected calibration error {error:.3f}, {brier}")
    return [*lines, *(f"  left out: {reason}" for reason in thresholds.left_out.values())]


def _elsewhere(recommended: RecommendedThreshold) -> str:
    if (far := recommended.far_elsewhere) is None:
        return "  on other cameras: one camera tells nothing of the false accept rate on others"
    rates = f"{100 * far.low:.2g} to {100 * far.high:.2g} %"
    return f"  on {recommended.cameras} other cameras, with other people: a false accept rate of {rates}"


def threshold_tables(thresholds: Thresholds) -> list[ExtraTable]:
    """Tables of verification and, if available, open-set identification."""
    name = thresholds.verification.protocol.name.replace("_", "-")
    tables = [
        ExtraTable(
            f"Verification, {name}", ("", "false accept rate", "true accept rate", "threshold"), *_pairs(thresholds)
        )
    ]
    if (found := thresholds.open_set) is not None:
        ranks = sorted({rank for point in found.points for rank in point.fnir or {}})
        rows = [
            (
                f"FPIR ≤ {_per_cent(point.asked_fpir)}",
                *(_spread(point.fnir[rank]) if point.fnir else "–" for rank in ranks),
                "–" if point.threshold is None else f"{point.threshold.mean:.4f}",
            )
            for point in found.points
        ]
        drawn = (
            f" Means ± standard deviations over {found.draws} random draws of enrolled persons." if found.draws else ""
        )
        reasons = {f"{point.reason}." for point in found.points if point.reason}
        note = (
            "FNIR: the share of enrolled persons' queries (mated) whose person is not among the first candidates or "
            "scores below the threshold. FPIR: the share of other persons' queries (non-mated) with a candidate at the "
            f"threshold or above.{drawn} {_count(found.enrolled)} persons are enrolled, with {_count(found.mated)} "
            f"mated and {_count(found.non_mated)} non-mated queries."
        )
        headings = ("", *(f"FNIR, rank {rank}" for rank in ranks), "threshold")
        tables.append(ExtraTable(f"Open set, {name}", headings, rows, " ".join([note, *sorted(reasons)])))
    return tables


def _pairs(thresholds: Thresholds) -> tuple[Sequence[tuple[str, ...]], str]:
    verification, recommended = thresholds.verification, thresholds.recommended
    eer, eer_threshold = verification.equal_error_rate
    rows = [("equal error rate", _per_cent(eer), f"{100 * (1 - eer):.1f} %", f"{eer_threshold:.4f}")]
    if recommended.threshold is not None and recommended.far is not None and recommended.tar is not None:
        rows.append(
            (
                "recommended",
                f"{_interval(recommended.far, '.2f')} %",
                f"{_interval(recommended.tar, '.1f')} %",
                _interval(recommended.threshold, ".4f", 1),
            )
        )
        if (far := recommended.far_elsewhere) is not None:
            rows.append(("the same on other cameras", f"{100 * far.low:.2f} to {100 * far.high:.2f} %", "–", "–"))
    rows += [
        (
            f"FAR ≤ {_per_cent(point.asked_far)}",
            _per_cent(point.far),
            f"{100 * point.tar:.1f} %",
            f"{point.threshold:.4f}",
        )
        for point in verification.operating_points()
        if point.threshold is not None and point.far is not None and point.tar is not None
    ]
    note = (
        f"Pairs of a query and a gallery tracklet: {len(verification.genuine_score_P):,} of the same person, "
        f"{verification.impostors:,} of different persons. A pair is accepted if its score is at least the threshold. "
        f"AUC {verification.auc:.4f}. In brackets: 95 % intervals, the range expected with "
        "other persons. On other cameras: the range expected on as many other cameras with as many other persons."
    )
    if recommended.reason:
        note += f" No threshold for a false accept rate of {_per_cent(recommended.asked_far)}: {recommended.reason}."
    return rows, note


def _interval(interval: Interval, form: str, scale: float = 100) -> str:
    value, low, high = (format(scale * number, form) for number in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def _spread(spread: Spread) -> str:
    return f"{100 * spread.mean:.1f} %" + ("" if spread.sd is None else f" ± {100 * spread.sd:.1f}")


def _count(spread: Spread) -> str:
    return f"{spread.mean:,.0f}"


def _per_cent(share: float) -> str:
    return f"{100 * share:.3g} %"
