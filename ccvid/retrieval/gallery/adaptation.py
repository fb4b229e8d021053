"""Adapt embeddings to the gallery that they are compared in, without labels; reported separately from plain results.

Each function takes and returns (N, D) float32 embeddings of any length but zero; results have length 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.gallery.search import search
from ccvid.retrieval.ranking.distances import Floats

Embeddings = npt.NDArray[np.float32]


def expand_queries(query_QD: Floats, gallery_GD: Floats, *, k: int = 5, alpha: float = 3.0) -> Embeddings:
    """α-query expansion (Radenović, Tolias and Chum, TPAMI 2019): weighted mean of a query and its k nearest entries.

    An entry's weight is its cosine to the power ``alpha``, or 0 if the cosine is negative; the query's own is 1.
    """
    found = search(query_QD, gallery_GD, min(k, len(gallery_GD)))
    weight_QK = np.maximum(found.score_QK, 0) ** alpha
    gallery_QKD = unit(gallery_GD)[found.gallery_QK].astype(np.float64)
    return unit(unit(query_QD) + np.einsum("qk,qkd->qd", weight_QK, gallery_QKD))


def gallery_centroids(gallery_GD: Floats, *, k: int = 5) -> Embeddings:
    """Replace each gallery entry by the mean of itself and its mutual neighbours among the k nearest.

    Mutual neighbours stand in for the tracklets of one person, since the labels are unknown.
    """
    own = unit(gallery_GD)
    nearest_GK = search(own, own, min(k + 1, len(own))).gallery_QK
    mutual_GK = (nearest_GK[nearest_GK] == np.arange(len(own))[:, None, None]).any(axis=2)
    mutual_GK |= nearest_GK == np.arange(len(own))[:, None]
    return unit(np.einsum("gk,gkd->gd", mutual_GK.astype(np.float64), own[nearest_GK].astype(np.float64)))


def subtract_camera_means(
    query_QD: Floats, gallery_GD: Floats, query_camera: Sequence[str], gallery_camera: Sequence[str]
) -> tuple[Embeddings, Embeddings]:
    """Subtract from each embedding the mean of its camera (queries and gallery together), and add the overall mean.

    The embedding of a camera that has only one is not changed.
    """
    every_ND = unit(np.concatenate((query_QD, gallery_GD))).astype(np.float64)
    names, camera_N = np.unique([*query_camera, *gallery_camera], return_inverse=True)
    count_C = np.bincount(camera_N)
    mean_CD = np.zeros((len(names), every_ND.shape[1]))
    np.add.at(mean_CD, camera_N, every_ND)
    mean_CD /= count_C[:, None]
    mean_CD[count_C == 1] = every_ND.mean(axis=0)
    moved = unit(every_ND - mean_CD[camera_N] + every_ND.mean(axis=0))
    return moved[: len(query_QD)], moved[len(query_QD) :]


def unit(embedding_ND: Floats) -> Embeddings:
    """Rows of length 1."""
    wide = embedding_ND.astype(np.float64)
    scaled: Embeddings = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return scaled
