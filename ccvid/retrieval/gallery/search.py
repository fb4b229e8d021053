"""The k most similar gallery entries of each query, exactly, without storing all scores.

Entries that could be among the first k by quick scores (``candidates``) are scored again, exactly as
``CosineDistances`` does. So the ranking is that of the exact scores, ties in gallery order, for any block size, device
and number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ccvid.retrieval.gallery.candidates import Codes, find_candidates
from ccvid.retrieval.ranking.distances import CosineDistances, Floats, Indices, Scores
from data_tools.errors import InputError

QUERY_BLOCK, GALLERY_BLOCK = 4096, 8192
GPU_QUERY_BLOCK, GPU_GALLERY_BLOCK = 16_384, 32_768
"""Larger, so that most searches copy the gallery to the GPU only once, and the CPU rarely waits for a block."""
EXACT_QUERIES = 64
"""Queries that a thread scores exactly at a time: the vectors of their candidates fit a core's cache."""


@dataclass(frozen=True, slots=True)
class NearestEntries:
    """``gallery_QK`` int64: gallery indices by decreasing score, −1 after the last; ``score_QK`` float64: the cosines.

    Where there is no entry, the score is −infinity.
    """

    gallery_QK: Indices
    score_QK: Scores

    @classmethod
    def of(cls, queries: int, k: int, query_C: Indices, gallery_C: Indices, score_C: Scores) -> NearestEntries:
        """The first k of C candidates for each query, by decreasing score, ties in gallery order."""
        gallery_QK, score_QK = np.full((queries, k), -1), np.full((queries, k), -np.inf)
        order = np.lexsort((gallery_C, -score_C, query_C))
        query_C, gallery_C, score_C = query_C[order], gallery_C[order], score_C[order]
        place_C = np.arange(len(query_C)) - np.searchsorted(query_C, query_C)
        kept = place_C < k
        place = query_C[kept], place_C[kept]
        gallery_QK[place], score_QK[place] = gallery_C[kept], score_C[kept]
        return cls(gallery_QK, score_QK)

    @classmethod
    def of_queries(cls, parts: Sequence[NearestEntries]) -> NearestEntries:
        """Of all queries, from the entries of consecutive parts of them."""
        return cls(
            np.concatenate([part.gallery_QK for part in parts]), np.concatenate([part.score_QK for part in parts])
        )

    @classmethod
    def of_parts(cls, parts: Sequence[NearestEntries], starts: Sequence[int], k: int) -> NearestEntries:
        """The first k of a gallery, from those of its parts, whose entries are numbered from ``starts`` on."""
        queries = len(parts[0].gallery_QK)
        places = [np.nonzero(part.gallery_QK >= 0) for part in parts]
        query_C = np.concatenate([query for query, _ in places])
        gallery_C = np.concatenate(
            [part.gallery_QK[place] + start for part, start, place in zip(parts, starts, places, strict=True)]
        )
        score_C = np.concatenate([part.score_QK[place] for part, place in zip(parts, places, strict=True)])
        return cls.of(queries, k, query_C, gallery_C, score_C)


def search(
    query_QD: Floats,
    gallery_GD: Floats,
    k: int,
    *,
    exclude: Sequence[Codes] = (),
    device: torch.device | str = "cpu",
    query_block: int | None = None,
    gallery_block: int | None = None,
    quick_dtype: torch.dtype | None = None,
) -> NearestEntries:
    """Rank the gallery for each query by cosine, and keep the first k.

    Args:
        query_QD: (Q, D) floats of any length but zero.
        gallery_GD: (G, D), may be a memory map; read block by block, once for every ``query_block`` queries.
        exclude: an entry with the same code as the query in one of these (its own id, its camera) is left out.
        device: where the quick scores are computed.
        query_block: Default: 4096, on a GPU 16,384.
        gallery_block: Default: 8192, on a GPU 32,768.
        quick_dtype: type of the vectors for quick scores, float32 or float16. Default: float16 on a GPU, for its tensor
            cores, else float32. The result is the same.

    Memory besides the inputs: the queries in float32, a block of the gallery (several on a GPU), ``query_block`` ×
    ``gallery_block`` scores (128 MiB, on a GPU 2 GiB), and for each query k entries and those within the margin.

    Raises:
        InputError: k below 1, no query or no entry, different dimensions, NaN, infinity, or a zero vector.
    """
    if k < 1:
        raise InputError(f"{k} matches per query, expected 1 or more")
    if not len(query_QD) or not len(gallery_GD):
        raise InputError(f"nothing to rank: {len(query_QD)} queries, {len(gallery_GD)} gallery tracklets")
    place = torch.device(device)
    on_gpu = place.type == "cuda"
    query_block = query_block or (GPU_QUERY_BLOCK if on_gpu else QUERY_BLOCK)
    gallery_block = gallery_block or (GPU_GALLERY_BLOCK if on_gpu else GALLERY_BLOCK)
    quick_dtype = quick_dtype or (torch.float16 if on_gpu else torch.float32)
    exact = CosineDistances(query_QD, gallery_GD, gallery_checked=on_gpu)  # find_candidates checks blocks on the GPU
    parts: list[NearestEntries] = []
    for start in range(0, len(query_QD), query_block):
        asked = slice(start, min(start + query_block, len(query_QD)))
        codes = [(query[asked], gallery) for query, gallery in exclude]
        query_C, gallery_C = find_candidates(query_QD[asked], gallery_GD, k, codes, place, gallery_block, quick_dtype)
        parts.append(rank_candidates(exact, k, query_C + start, gallery_C, range(asked.start, asked.stop)))
    return NearestEntries.of_queries(parts)


def rank_candidates(
    exact: CosineDistances, k: int, query_C: Indices, gallery_C: Indices, queries: range
) -> NearestEntries:
    """The first k of the candidates of consecutive queries by exact scores, in as many threads as torch uses.

    ``query_C`` is sorted, and no pair is in it twice.
    """
    few = [queries[first : first + EXACT_QUERIES] for first in range(0, len(queries), EXACT_QUERIES)]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return NearestEntries.of_queries(list(threads.map(partial(_first_k, exact, k, query_C, gallery_C), few)))


def _first_k(exact: CosineDistances, k: int, query_C: Indices, gallery_C: Indices, queries: range) -> NearestEntries:
    """The first k of some queries by exact scores; the candidates are ordered by query."""
    own = slice(*np.searchsorted(query_C, (queries.start, queries.stop)))
    query_C, gallery_C = query_C[own], gallery_C[own]
    score_C = 1.0 - exact.pairs(query_C, gallery_C).astype(np.float64)
    return NearestEntries.of(len(queries), k, query_C - queries.start, gallery_C, score_C)
