"""The report of a scored retrieval: metrics, charts and matrices on one page, filmstrips of all queries on another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ccvid.retrieval.ranking.distances import Distances
from ccvid.retrieval.ranking.labels import distinct_labels
from ccvid.retrieval.ranking.metrics import CMC_RANKS, Evaluation, ProtocolResult
from ccvid.retrieval.report.charts import CHARTS
from ccvid.retrieval.report.filmstrips import Tracklets, write_filmstrips
from ccvid.retrieval.report.folder import report_folder, write_page
from ccvid.retrieval.report.labelled import protocol_views, shown_precision
from ccvid.retrieval.report.matrices import ScoreMatrix, matrix_columns, score_matrices
from ccvid.retrieval.report.report_input import ExtraFigure, ReportInput

PRECISION_BINS = tuple((low, low + 9.9 if low < 90 else 100) for low in range(0, 100, 10))
"""Lowest and highest average precision in per cent, with one decimal."""


def write_report(report: ReportInput, folder: Path) -> None:
    """Write the report to ``folder``, completely or not at all; an earlier report there is replaced.

    Takes one pass over the distances for each label column with a matrix. Raises InputError if the folder cannot be
    written or holds something else, and whatever the thumbnails raise.
    """
    for result in report.evaluation.results.values():
        assert result.nearest_others.gallery_QK.shape[1] > 0, "evaluate() kept no rankings: give it top_k"
    with report_folder(folder) as new:
        write_rankings(report, new)
        write_overview(report, new)


def write_rankings(report: ReportInput, folder: Path) -> None:
    """Write the page of filmstrips to ``folder``."""
    query = Tracklets.of_labels(report.evaluation.query, report.query_thumbnails)
    gallery = Tracklets.of_labels(report.evaluation.gallery, report.gallery_thumbnails)
    views = protocol_views(report.evaluation, report.distances, query, gallery, report.probability)
    write_filmstrips(folder, views, threshold=None if report.threshold is None else report.threshold.score)
    shown = {"title": report.title, "facts": {}, "has_overview": True}
    write_page(folder, "filmstrips.html", "filmstrips.html.j2", shown)


def write_overview(report: ReportInput, folder: Path) -> None:
    """Write the first page to ``folder``."""
    _write_figures(folder, report.figures)
    write_page(folder, "index.html", "index.html.j2", _overview(report))


def _overview(report: ReportInput) -> dict[str, object]:
    evaluation = report.evaluation
    columns, without_matrix = matrix_columns(evaluation)
    return {
        "title": report.title,
        "facts": report.facts,
        "sizes": _sizes(evaluation),
        "precision_bins": PRECISION_BINS,
        "headings": ("mAP", "mINP", *(f"top-{rank}" for rank in CMC_RANKS)),
        "protocols": [_protocol(name, result, report) for name, result in evaluation.results.items()],
        "left_out": evaluation.left_out,
        "threshold": report.threshold,
        "charts": [chart for draw in CHARTS if (chart := draw(report)) is not None],
        "figures": report.figures,
        "tables": report.tables,
        "matrices": {name: _matrices(evaluation, report.distances, name) for name in columns},
        "without_matrix": without_matrix,
        "has_intervals": bool(report.intervals),
    }


def _sizes(evaluation: Evaluation) -> dict[str, int]:
    query, gallery = evaluation.query, evaluation.gallery
    return {
        "query tracklets": len(query),
        "gallery tracklets": len(gallery),
        "persons": len(distinct_labels(query.person) | distinct_labels(gallery.person)),
        "cameras": len(distinct_labels(query.camera) | distinct_labels(gallery.camera)),
    }


def _protocol(name: str, result: ProtocolResult, report: ReportInput) -> dict[str, object]:
    values = (result.mean_average_precision, result.mean_inverse_negative_penalty, *map(result.cmc, CMC_RANKS))
    between = [""] * len(values)
    if found := report.intervals.get(name):
        bounds = (found.mean_average_precision, found.mean_inverse_negative_penalty, *found.cmc.values())
        between = [f"{100 * interval.low:.1f}–{100 * interval.high:.1f}" for interval in bounds]
    cells = [(f"{100 * value:.1f}", interval) for value, interval in zip(values, between, strict=True)]
    return {
        "name": name,
        "shown": name.replace("_", "-"),
        "meaning": result.protocol.describe(),
        "cells": cells,
        "chance": f"{100 * result.chance:.1f}",
        "spread": _spread(result),
        "queries": result.queries,
        "unmatched": result.queries_without_match,
    }


def _spread(result: ProtocolResult) -> list[tuple[int, float]]:
    """The number of queries in each of ``PRECISION_BINS``, and their share of the fullest in per cent."""
    precision_Q = shown_precision(result)[result.has_match]
    counts = [int(np.count_nonzero((precision_Q >= low) & (precision_Q <= high))) for low, high in PRECISION_BINS]
    return [(count, 100 * count / max(counts)) for count in counts]


def _matrices(evaluation: Evaluation, distances: Distances, column: str) -> list[dict[str, object]]:
    return [_matrix(matrix) for matrix in score_matrices(evaluation, distances, column)]


def _matrix(matrix: ScoreMatrix) -> dict[str, object]:
    """A table's rows: label and cells of (mAP, top-1, queries), None where no query has a match."""
    columns = np.stack((matrix.map_AB, matrix.top1_AB, matrix.queries_AB), axis=-1).tolist()
    rows = [
        (label, [None if math.isnan(cell[0]) else (100 * cell[0], 100 * cell[1], int(cell[2])) for cell in cells])
        for label, cells in zip(matrix.query_labels, columns, strict=True)
    ]
    return {"protocol": matrix.protocol.replace("_", "-"), "labels": matrix.gallery_labels, "rows": rows}


def _write_figures(folder: Path, figures: Sequence[ExtraFigure]) -> None:
    if figures:
        (folder / "figures").mkdir()
    for number, figure in enumerate(figures):
        (folder / "figures" / f"{number}.svg").write_bytes(figure.svg.encode("utf-8", "replace"))
