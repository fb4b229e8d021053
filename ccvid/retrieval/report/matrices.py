"""Results of each kind of query on each kind of gallery entry: by camera, clothes or any attribute."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.gallery.matches import TIMES
from ccvid.retrieval.ranking.distances import Distances
from ccvid.retrieval.ranking.labels import Column, distinct_labels, joint_codes
from ccvid.retrieval.ranking.metrics import Evaluation, score_protocols
from data_tools.progress import Meter

MOST_LABELS = 40
"""A wider table is not readable."""


@dataclass(frozen=True, slots=True)
class ScoreMatrix:
    """One protocol's metrics of the queries with label A when only gallery entries with label B are searched.

    ``map_AB`` and ``top1_AB``: float64 fractions, NaN where no query has a match; ``queries_AB``: how many have one.
    """

    protocol: str
    column: str
    query_labels: tuple[str, ...]
    gallery_labels: tuple[str, ...]
    map_AB: npt.NDArray[np.float64]
    top1_AB: npt.NDArray[np.float64]
    queries_AB: npt.NDArray[np.int64]


def matrix_columns(evaluation: Evaluation) -> tuple[list[str], dict[str, str]]:
    """The label columns with a matrix, camera first, and why the others have none."""
    query, gallery = evaluation.query, evaluation.gallery
    names = sorted({*query.attributes, *gallery.attributes} - {*TIMES, "camera", "clothes"})
    chosen, left_out = [], {}
    for name in ("camera", "clothes", *names):
        counts = [len(distinct(side.column(name))) for side in (query, gallery)]
        if min(counts) == 0:
            left_out[name] = "not known for both queries and gallery"
        elif max(counts) == 1:
            left_out[name] = "only one value"
        elif max(counts) > MOST_LABELS:
            left_out[name] = f"{max(counts)} values; at most {MOST_LABELS} can be shown"
        else:
            chosen.append(name)
    return chosen, left_out


def score_matrices(evaluation: Evaluation, distances: Distances, column: str) -> list[ScoreMatrix]:
    """The matrix of every protocol of ``evaluation`` in which a query has a match.

    Each gallery label is searched separately: one pass over all distances in total. Memory: as ``Distances.take``.
    """
    query, gallery = evaluation.query, evaluation.gallery
    query_labels, gallery_labels = distinct(query.column(column)), distinct(gallery.column(column))
    shape = len(query_labels), len(gallery_labels)
    protocols = [result.protocol for result in evaluation.results.values()]
    matrices = {
        protocol.name: ScoreMatrix(
            protocol.name,
            column,
            query_labels,
            gallery_labels,
            np.full(shape, np.nan),
            np.full(shape, np.nan),
            np.zeros(shape, np.int64),
        )
        for protocol in protocols
    }
    code_A, code_Q = joint_codes(query_labels, query.column(column))
    code_B, code_G = joint_codes(gallery_labels, gallery.column(column))
    meter = Meter(f"results by {column}", len(code_B), "labels", brief=True)
    for b, code in enumerate(code_B):
        rows = np.flatnonzero(code_G == code)
        part = distances.take(np.arange(len(query)), rows)
        results, _ = score_protocols(part, query, gallery.take(rows), protocols)
        for name, result in results.items():
            matrix = matrices[name]
            for a in range(shape[0]):
                chosen_Q = result.has_match & (code_Q == code_A[a])
                matrix.queries_AB[a, b] = np.count_nonzero(chosen_Q)
                if chosen_Q.any():
                    matrix.map_AB[a, b] = np.mean(result.average_precision_Q[chosen_Q])
                    matrix.top1_AB[a, b] = np.mean(result.first_match_rank_Q[chosen_Q] == 1)
        meter.add()
    return [matrix for matrix in matrices.values() if matrix.queries_AB.any()]


def distinct(column: Column) -> tuple[str, ...]:
    """The distinct known labels, sorted with numbers by value ("cam 2" before "cam 10")."""
    return tuple(sorted(distinct_labels(column), key=_by_numbers))


def _by_numbers(label: str) -> tuple[tuple[bool, int, str], ...]:
    parts = re.split(r"(\d+)", label)
    return tuple((part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts)
