"""Adapt embeddings to the gallery that they are compared in, without labels; reported separately from plain results.

A gallery is never copied as a whole: what becomes of it is a ``GalleryChange``, which tells what becomes of some rows.
Results have length 1, and are the same whatever the slices and parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
import scipy.sparse as sp

from ccvid.retrieval.gallery.own_neighbours import exact_nearest, own_neighbours
from ccvid.retrieval.gallery.slices import IN_THREADS, SliceRunner, over_rows
from ccvid.retrieval.gallery.unit_vectors import Embeddings, unit
from ccvid.retrieval.gallery.vectors import AnyNumbers, JoinedVectors, MatrixVectors, Numbers, Vectors
from ccvid.retrieval.ranking.distances import Floats, Scores, on_grid

GalleryChange = Callable[[AnyNumbers, Floats], Embeddings]
"""What becomes of R rows of a gallery: their numbers, their embeddings (R, D) → new ones. It can be pickled."""


def expand_queries(
    query_QD: Floats, gallery: Vectors, *, k: int = 5, alpha: float = 3.0, run: SliceRunner = IN_THREADS
) -> Embeddings:
    """α-query expansion (Radenović, Tolias and Chum, TPAMI 2019): weighted mean of a query and its k nearest entries.

    An entry's weight is its cosine to the power ``alpha``, or 0 if the cosine is negative; the query's own is 1.
    """
    expand = partial(_expanded, query_QD, gallery, min(k, gallery.shape[0]), alpha)
    return np.concatenate(list(over_rows(run, "query expansion", expand, len(query_QD))))


def _expanded(query_QD: Floats, gallery: Vectors, k: int, alpha: float, queries: slice) -> Embeddings:
    own_MD = query_QD[queries]
    with gallery.opened() as opened:
        found = exact_nearest(opened, own_MD, k)
        entry_MKD = unit(opened.take(found.gallery_QK.ravel())).reshape(*found.gallery_QK.shape, -1)
    weight_MK = np.maximum(found.score_QK, 0) ** alpha
    return unit(unit(own_MD) + np.einsum("qk,qkd->qd", weight_MK, entry_MKD.astype(np.float64)))


def gallery_centroids(gallery: Vectors, *, k: int = 5, run: SliceRunner = IN_THREADS) -> Centroids:
    """Replace each gallery entry by the mean of itself and its mutual neighbours among the k nearest.

    Mutual neighbours stand in for the tracklets of one person, since the labels are unknown. Neighbours of a large
    gallery come from an index, see ``own_neighbours``.
    """
    return Centroids(gallery, own_neighbours(gallery, min(k + 1, gallery.shape[0]), run=run).nearest_NK)


@dataclass(frozen=True, slots=True)
class Centroids:
    """A ``GalleryChange``; see ``gallery_centroids``. Memory: 4 (k + 1) bytes a row."""

    gallery: Vectors
    nearest_GK: Numbers

    def __call__(self, row_R: AnyNumbers, embedding_RD: Floats) -> Embeddings:
        nearest_RK, own_R1 = self.nearest_GK[row_R], row_R[:, None]
        mutual_RK = (self.nearest_GK[nearest_RK] == own_R1[:, :, None]).any(axis=2)
        mutual_RK &= (nearest_RK >= 0) & (nearest_RK != own_R1)  # it may be missing among many that equal it
        with self.gallery.opened() as opened:
            near_RKD = unit(opened.take(nearest_RK.ravel())).reshape(*nearest_RK.shape, -1)
        sum_RD = np.einsum("rk,rkd->rd", mutual_RK.astype(np.float64), near_RKD.astype(np.float64))
        return unit(unit(embedding_RD) + sum_RD)


def subtract_camera_means(
    query_QD: Floats,
    gallery: Vectors,
    query_camera: Sequence[str],
    gallery_camera: Sequence[str],
    *,
    run: SliceRunner = IN_THREADS,
) -> tuple[Embeddings, WithoutCameraMeans]:
    """Subtract from each embedding the mean of its camera (queries and gallery together), and add the overall mean.

    The embedding of a camera that has only one is not changed.

    Returns:
        The new queries, and what becomes of the gallery.
    """
    names, camera_N = np.unique([*query_camera, *gallery_camera], return_inverse=True)
    code_N, queries = camera_N.astype(np.int32), len(query_QD)
    every = JoinedVectors(MatrixVectors(query_QD), gallery)
    sums = over_rows(run, "camera means", partial(_camera_sums, every, code_N, len(names)), len(code_N))
    sum_CD, count_C = reduce(np.add, sums), np.bincount(code_N)
    overall_D = sum_CD.sum(axis=0) / len(code_N)
    moved_CD = overall_D - np.where(count_C[:, None] > 1, sum_CD / count_C[:, None], overall_D)
    of_query, of_gallery = (WithoutCameraMeans(code_S, moved_CD) for code_S in np.split(code_N, [queries]))
    return of_query(np.arange(queries), query_QD), of_gallery


def _camera_sums(every: Vectors, code_N: Numbers, cameras: int, rows: slice) -> Scores:
    """(C, D) sums of some unit rows; exact, as their coordinates are multiples of 2⁻²⁶, so their order is no matter."""
    with every.opened() as opened:
        unit_RD = on_grid(opened.take(np.arange(rows.start, rows.stop)))
    code_R = code_N[rows]
    of_camera_CR = sp.csr_array((np.ones(len(code_R)), (code_R, np.arange(len(code_R)))), shape=(cameras, len(code_R)))
    sums: Scores = of_camera_CR @ unit_RD
    return sums


@dataclass(frozen=True, slots=True)
class WithoutCameraMeans:
    """A ``GalleryChange``: adds to each embedding what belongs to its camera's code; see ``subtract_camera_means``."""

    code_N: Numbers
    moved_CD: Scores

    def __call__(self, row_R: AnyNumbers, embedding_RD: Floats) -> Embeddings:
        return unit(unit(embedding_RD) + self.moved_CD[self.code_N[row_R]])
