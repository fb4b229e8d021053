"""The k most similar gallery entries of each query, exactly, without storing all scores.

Entries that could be among the first k by quick scores (``candidates``) are scored again, exactly as
``CosineDistances`` does. So the ranking is that of the exact scores, ties in gallery order, for any block size, device
and number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ccvid.retrieval.gallery.candidates import Wanted, find_candidates
from ccvid.retrieval.ranking.distances import CosineDistances, Floats, Indices, Scores
from ccvid.retrieval.ranking.nearest import Codes, NearestEntries
from ccvid.retrieval.ranking.quick_scores import core_threads
from data_tools.errors import InputError

QUERY_BLOCK, GALLERY_BLOCK = 1024, 16_384
GPU_QUERY_BLOCK, GPU_GALLERY_BLOCK = 16_384, 32_768
"""Larger, so that most searches copy the gallery to the GPU only once, and the CPU rarely waits for a block."""
EXACT_PAIRS = 4096
"""Candidates that a thread scores exactly at a time."""


def search(
    query_QD: Floats,
    gallery_GD: Floats,
    k: int,
    *,
    exclude: Sequence[Codes] = (),
    least_Q: Scores | None = None,
    device: torch.device | str = "cpu",
    query_block: int | None = None,
    gallery_block: int | None = None,
    quick_dtype: torch.dtype | None = None,
) -> NearestEntries:
    """Rank the gallery for each query by cosine, and keep the first k.

    Args:
        query_QD: (Q, D) floats of any length but zero.
        gallery_GD: (G, D), may be a memory map; read once, block by block.
        exclude: an entry with the same code as the query in one of these (its own id, its camera) is left out.
        least_Q: (Q,) what is already known to be reached k times elsewhere: entries with lower scores may be missing.
            Default: none.
        device: where the quick scores are computed.
        query_block: most queries that take in a block at a time. Default: 1024, on a GPU 16,384.
        gallery_block: Default: 16,384, on a GPU 32,768.
        quick_dtype: type of the vectors for quick scores, float32 or float16. Default: float16 on a GPU, for its tensor
            cores, else float32. The result is the same.

    Memory besides the inputs: the queries in float32, two blocks of the gallery (several on a GPU), 4 MiB of scores for
    each thread (on a GPU 2 GiB: ``query_block`` × ``gallery_block``), and for each query k entries and those within the
    margin. Where these are too many (``nearest.MOST_KEPT``), only the first k by exact scores are kept.

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
    exact = CosineDistances(query_QD, gallery_GD, gallery_checked=True)  # find_candidates checks its blocks
    wanted = Wanted(k, exclude, least_Q, place, query_block, gallery_block, quick_dtype)
    return rank_candidates(exact, k, *find_candidates(exact, wanted), range(len(query_QD)))


def rank_candidates(
    exact: CosineDistances, k: int, query_C: Indices, gallery_C: Indices, queries: range
) -> NearestEntries:
    """The first k of the candidates of consecutive queries by exact scores, in as many threads as torch uses.

    No pair is among the candidates twice.
    """
    score_C = _exact_scores(exact, query_C, gallery_C)
    return NearestEntries.of(len(queries), k, query_C - queries.start, gallery_C, score_C)


def _exact_scores(exact: CosineDistances, query_C: Indices, gallery_C: Indices) -> Scores:
    """Those of the candidates, divided among threads."""
    parts = range(0, len(query_C), EXACT_PAIRS)
    with core_threads() as threads:
        distance = threads.map(
            lambda start: exact.pairs(query_C[start : start + EXACT_PAIRS], gallery_C[start : start + EXACT_PAIRS]),
            parts,
        )
        return 1.0 - np.concatenate([np.zeros(0), *distance])
