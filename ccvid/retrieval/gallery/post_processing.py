"""Gain and cost of methods that use the gallery before ranking it; reported separately from plain results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np

from ccvid.retrieval.gallery.adaptation import (
    GalleryChange,
    expand_queries,
    gallery_centroids,
    subtract_camera_means,
)
from ccvid.retrieval.gallery.reranking import re_rank
from ccvid.retrieval.gallery.slices import IN_THREADS, MOST_ROWS, SliceRunner, slices_of
from ccvid.retrieval.gallery.vectors import JoinedVectors, MatrixVectors, Vectors
from ccvid.retrieval.ranking.distances import CosineDistances, Distances, Floats
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import Protocol as RetrievalProtocol


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


@runtime_checkable
class ChangeableDistances(Distances, Protocol):
    """Cosine distances to a gallery whose embeddings can be read and changed."""

    @property
    def query_QD(self) -> Floats: ...  # noqa: N802

    @property
    def vectors(self) -> Vectors:
        """The gallery's embeddings."""

    @property
    def slices(self) -> SliceRunner:
        """Computes slices of tracklets."""

    def changed(self, query_QD: Floats, change: GalleryChange | None) -> Distances:
        """Those of other queries, and to what becomes of the gallery."""


def compare_post_processing(
    distances: CosineDistances | ChangeableDistances,
    query: RetrievalLabels,
    gallery: RetrievalLabels,
    protocols: Iterable[RetrievalProtocol],
) -> list[ProcessedScores]:
    """Score every method, plain ranking first. No method sees person labels; subtracting camera means uses cameras.

    Memory: that of ``re_rank``.
    """
    entries: Vectors = (
        MatrixVectors(distances.gallery_GD) if isinstance(distances, CosineDistances) else distances.vectors
    )
    run = IN_THREADS if isinstance(distances, CosineDistances) else distances.slices
    changed = partial(_changed, distances)
    query_QD = distances.query_QD
    methods: dict[str, Callable[[], Distances]] = {
        "plain": lambda: changed(query_QD, None),
        "re-ranking": lambda: re_rank(
            changed(query_QD, None), JoinedVectors(MatrixVectors(query_QD), entries), run=run
        ),
        "query expansion": lambda: changed(expand_queries(query_QD, entries, run=run), None),
        "gallery centroids": lambda: changed(query_QD, gallery_centroids(entries, run=run)),
        "camera means subtracted": lambda: changed(
            *subtract_camera_means(query_QD, entries, query.camera, gallery.camera, run=run)
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


def _changed(
    distances: CosineDistances | ChangeableDistances, query_QD: Floats, change: GalleryChange | None
) -> Distances:
    if not isinstance(distances, CosineDistances):
        return distances.changed(query_QD, change)
    gallery_GD = distances.gallery_GD
    if change is not None:
        number_G, parts = np.arange(len(gallery_GD)), slices_of(len(gallery_GD), MOST_ROWS)
        gallery_GD = np.concatenate([change(number_G[part], gallery_GD[part]) for part in parts])
    return CosineDistances(query_QD, gallery_GD)


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
