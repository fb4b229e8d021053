"""The report of a scored retrieval: metrics, charts and matrices on one page, filmstrips of all queries on another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ccvid.retrieval.ranking.bootstrap import ResultIntervals
from ccvid.retrieval.ranking.distances import Distances
from ccvid.retrieval.ranking.metrics import CMC_RANKS, Evaluation, ProtocolResult
from ccvid.retrieval.report.charts import cmc_chart, pair_scores, score_chart
from ccvid.retrieval.report.film_strip import Thumbnails
from ccvid.retrieval.report.filmstrips import Tracklets, write_filmstrips
from ccvid.retrieval.report.folder import report_folder, write_page
from ccvid.retrieval.report.labelled import Probability, protocol_views
from ccvid.retrieval.report.matrices import ScoreMatrix, matrix_columns, score_matrices


@dataclass(frozen=True, slots=True)
class Threshold:
    """The least score at which two tracklets count as the same person; ``meaning`` says how it was chosen."""

    score: float
    interval: tuple[float, float] | None
    meaning: str


@dataclass(frozen=True, slots=True)
class ExtraFigure:
    """A chart made elsewhere: SVG text, shown as an image, so that scripts in it cannot run.

    A ``wide`` one takes the whole width.
    """

    name: str
    svg: str
    caption: str
    wide: bool = False


@dataclass(frozen=True, slots=True)
class ExtraTable:
    """A table made elsewhere: the first cell of each row is its name; ``note`` explains the table."""

    name: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


@dataclass(frozen=True, slots=True)
class ReportInput:
    """The content of a report.

    ``evaluation`` must have kept rankings (``top_k``), which are shown. ``distances`` are those that it was computed
    from; a score is 1 − distance. Times come from the attributes ``TIMES`` of its labels. ``intervals`` are by
    protocol.
    """

    title: str
    evaluation: Evaluation
    distances: Distances
    query_thumbnails: Thumbnails
    gallery_thumbnails: Thumbnails
    facts: Mapping[str, object] = field(default_factory=dict)
    probability: Probability | None = None
    threshold: Threshold | None = None
    intervals: Mapping[str, ResultIntervals] = field(default_factory=dict)
    figures: Sequence[ExtraFigure] = ()
    tables: Sequence[ExtraTable] = ()


def write_report(report: ReportInput, folder: Path) -> None:
    """Write the report to ``folder``, completely or not at all; an earlier report there is replaced.

    Takes one pass over the distances for each label column with a matrix. Raises InputError if the folder cannot be
    written or holds something else, and whatever the thumbnails raise.
    """
    evaluation = report.evaluation
    for result in evaluation.results.values():
        assert result.nearest_others.gallery_QK.shape[1] > 0, "evaluate() kept no rankings: give it top_k"
    query = Tracklets.of_labels(evaluation.query, report.query_thumbnails)
    gallery = Tracklets.of_labels(evaluation.gallery, report.gallery_thumbnails)
    with report_folder(folder) as new:
        views = protocol_views(evaluation, report.distances, query, gallery, report.probability)
        threshold = None if report.threshold is None else report.threshold.score
        write_filmstrips(new, views, threshold=threshold)
        _write_figures(new, report.figures)
        write_page(new, "index.html", "index.html.j2", _overview(report))
        shown = {"title": report.title, "facts": {}, "has_overview": True}
        write_page(new, "filmstrips.html", "filmstrips.html.j2", shown)


def _overview(report: ReportInput) -> dict[str, object]:
    evaluation = report.evaluation
    threshold = report.threshold
    columns, without_matrix = matrix_columns(evaluation)
    scores = pair_scores(evaluation, report.distances)
    at = (None, None) if threshold is None else (threshold.score, threshold.interval)
    return {
        "title": report.title,
        "facts": report.facts,
        "sizes": _sizes(evaluation),
        "headings": ("mAP", "mINP", *(f"top-{rank}" for rank in CMC_RANKS)),
        "protocols": [_protocol(name, result, report) for name, result in evaluation.results.items()],
        "left_out": evaluation.left_out,
        "threshold": threshold,
        "cmc": cmc_chart(evaluation.results, len(evaluation.gallery)),
        "scores": score_chart(scores, *at),
        "score_counts": {name: len(values) for name, values in scores.items()},
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
        "persons": len({*query.person, *gallery.person}),
        "cameras": len({*query.camera, *gallery.camera}),
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
        "queries": result.queries,
        "unmatched": result.queries_without_match,
    }


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
