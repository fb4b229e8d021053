"""Gain and cost of methods that use the gallery before ranking it; reported separately from plain results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ccvid.retrieval.gallery.adaptation import expand_queries, gallery_centroids, subtract_camera_means
from ccvid.retrieval.gallery.reranking import re_rank
from ccvid.retrieval.gallery.slices import IN_THREADS, SliceRunner
from ccvid.retrieval.gallery.vectors import JoinedVectors, MatrixVectors
from ccvid.retrieval.ranking.distances import CosineDistances, Distances
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import Protocol


@dataclass(frozen=True, slots=True)
class ProcessedScores:
    """One method: mAP and top-1 by protocol as fractions, and seconds for processing, distances and scoring."""

    method: str
    mean_average_precision: Mapping[str, float]
    top_1: Mapping[str, float]
    seconds: float

    def to_json(self) -> dict[str, object]:
        figures = {
            name: {"map": value, "top-1": self.top_1[name]} for name, value in self.mean_average_precision.items()
        }
        return {"method": self.method, "protocols": figures, "seconds": self.seconds}


def compare_post_processing(
    distances: CosineDistances,
    query: RetrievalLabels,
    gallery: RetrievalLabels,
    protocols: Iterable[Protocol],
    run: SliceRunner = IN_THREADS,
) -> list[ProcessedScores]:
    """Score every method, plain ranking first. No method sees person labels; subtracting camera means uses cameras.

    Memory: that of ``re_rank``.
    """
    query_QD, gallery_GD = distances.query_QD, distances.gallery_GD
    methods: dict[str, Callable[[], Distances]] = {
        "plain": lambda: CosineDistances(query_QD, gallery_GD),
        "re-ranking": lambda: re_rank(
            CosineDistances(query_QD, gallery_GD),
            JoinedVectors(MatrixVectors(query_QD), MatrixVectors(gallery_GD)),
            run=run,
        ),
        "query expansion": lambda: CosineDistances(expand_queries(query_QD, gallery_GD), gallery_GD),
        "gallery centroids": lambda: CosineDistances(query_QD, gallery_centroids(gallery_GD)),
        "camera means subtracted": lambda: CosineDistances(
            *subtract_camera_means(query_QD, gallery_GD, query.camera, gallery.camera)
        ),
    }
    chosen = list(protocols)
    found = []
    for method, process in methods.items():
        started = time.perf_counter()
        results = evaluate(process(), query, gallery, protocols=chosen).results
        seconds = time.perf_counter() - started
        precision = {name: result.mean_average_precision for name, result in results.items()}
        top_1 = {name: result.cmc(1) for name, result in results.items()}
        found.append(ProcessedScores(method, precision, top_1, seconds))
    return found


def post_processing_rows(found: Sequence[ProcessedScores]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows in per cent: results with gains over plain ranking, and the cost, also relative to plain."""
    plain = found[0]
    names = list(plain.mean_average_precision)
    headings = ["", *(f"{name.replace('_', '-')} {figure}" for name in names for figure in ("mAP", "top-1")), "cost"]
    rows = []
    for scores in found:
        cells = []
        for name in names:
            for values, before in (
                (scores.mean_average_precision, plain.mean_average_precision),
                (scores.top_1, plain.top_1),
            ):
                gain = "" if scores is plain else f" ({100 * (values[name] - before[name]):+.1f})"
                cells.append(f"{100 * values[name]:.1f}{gain}")
        cost = f"{scores.seconds:.2f} s" + ("" if scores is plain else f" ({scores.seconds / plain.seconds:.1f}×)")
        rows.append([scores.method, *cells, cost])
    return headings, rows


NOTE = (
    "These methods use the whole gallery before ranking, and re-ranking also all queries: compare them with each "
    "other, not with plain results. In brackets: the gain over plain ranking. Cost: seconds for processing, distances "
    "and scoring on this machine."
)
