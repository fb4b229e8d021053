"""Approximate search with an HNSW index (Malkov and Yashunin, TPAMI 2020) from usearch, and its measured recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ccvid.retrieval.gallery.search import search
from ccvid.retrieval.ranking.distances import CosineDistances, Floats, Indices
from ccvid.retrieval.ranking.nearest import Codes, NearestEntries
from data_tools.errors import InputError

CHECKED_QUERIES = 200
MORE = 4
"""Factor of extra entries to fetch: some are excluded, and exact scores may order them differently."""


def approximate_search(
    query_QD: Floats, gallery_GD: Floats, k: int, *, exclude: Sequence[Codes] = (), seed: int = 0
) -> tuple[NearestEntries, float]:
    """Like ``search``, but entries may be missing; the scores of those found are exact.

    Returns:
        The entries, and the recall: the share of the exact search's first k entries that was found, measured on
        ``CHECKED_QUERIES`` randomly drawn queries (all, if fewer).

    Memory: the index, about the gallery in float32 plus 300 bytes per entry.

    Raises:
        InputError: as ``search``, or usearch is not installed.
    """
    asked = np.random.default_rng(seed).permutation(len(query_QD))[:CHECKED_QUERIES]
    exact = search(query_QD[asked], gallery_GD, k, exclude=[(query[asked], gallery) for query, gallery in exclude])
    index = _index(gallery_GD)
    wanted = min(len(gallery_GD), MORE * k)
    keys = np.asarray(index.search(query_QD.astype(np.float32), wanted).keys).reshape(len(query_QD), -1)
    query_C, gallery_C = np.repeat(np.arange(len(query_QD)), keys.shape[1]), keys.ravel().astype(np.int64)
    kept = (gallery_C >= 0) & (gallery_C < len(gallery_GD))
    for query, gallery in exclude:
        kept[kept] &= (query[query_C[kept]] != gallery[gallery_C[kept]]) | (gallery[gallery_C[kept]] < 0)
    query_C, gallery_C = query_C[kept], gallery_C[kept]
    score_C = 1.0 - CosineDistances(query_QD, gallery_GD).pairs(query_C, gallery_C).astype(np.float64)
    found = NearestEntries.of(len(query_QD), k, query_C, gallery_C, score_C)
    return found, _recall(exact.gallery_QK, found.gallery_QK[asked])


def _index(gallery_GD: Floats) -> Any:
    try:
        from usearch.index import Index
    except ImportError:
        raise InputError("approximate search needs usearch: pip install 'ccvid[ann]'") from None
    index = Index(ndim=gallery_GD.shape[1], metric="cos", dtype="f32")
    index.add(np.arange(len(gallery_GD)), gallery_GD.astype(np.float32))
    return index


def _recall(exact_QK: Indices, found_QK: Indices) -> float:
    """The share of exact entries that were found; 1 if there are none."""
    there = exact_QK >= 0
    hits = (exact_QK[:, :, None] == found_QK[:, None, :]).any(axis=2) & there
    return float(hits[there].mean()) if there.any() else 1.0
