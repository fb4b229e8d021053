"""The k most alike gallery entries of each query, exactly, without the matrix of scores.

Scores of a block are made in float32, whose error against the exact score is bounded (``_margin``). What might belong
to the first k by that bound is scored again as ``CosineDistances`` does, exactly. So the ranking is that of the exact
scores, equal ones in the order of the gallery, whatever the block size, the device or the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ccvid.retrieval.distances import CosineDistances, Floats, Indices
from data_tools.errors import InputError

QUERY_BLOCK, GALLERY_BLOCK = 4096, 8192

Scores = npt.NDArray[np.float64]
Codes = tuple[Indices, Indices]
"""A label of the queries (Q,) and of the gallery (G,) as integers that agree across both; −1 is unknown."""


@dataclass(frozen=True, slots=True)
class NearestEntries:
    """``gallery_QK`` int64: gallery indices by falling score, −1 beyond the last; ``score_QK`` float64: their cosines.

    Where there is no entry, the score is −infinity.
    """

    gallery_QK: Indices
    score_QK: Scores

    @classmethod
    def of(cls, queries: int, k: int, query_C: Indices, gallery_C: Indices, score_C: Scores) -> NearestEntries:
        """The first k of C candidates for each query: by falling score, equal ones in the order of the gallery."""
        gallery_QK, score_QK = np.full((queries, k), -1), np.full((queries, k), -np.inf)
        order = np.lexsort((gallery_C, -score_C, query_C))
        query_C, gallery_C, score_C = query_C[order], gallery_C[order], score_C[order]
        place_C = np.arange(len(query_C)) - np.searchsorted(query_C, query_C)
        kept = place_C < k
        place = query_C[kept], place_C[kept]
        gallery_QK[place], score_QK[place] = gallery_C[kept], score_C[kept]
        return cls(gallery_QK, score_QK)


def search(
    query_QD: Floats,
    gallery_GD: Floats,
    k: int,
    *,
    exclude: Sequence[Codes] = (),
    device: torch.device | str = "cpu",
    query_block: int = QUERY_BLOCK,
    gallery_block: int = GALLERY_BLOCK,
) -> NearestEntries:
    """Rank the gallery for each query by cosine, and keep the first k.

    Args:
        query_QD: (Q, D) floats of any length but zero.
        gallery_GD: (G, D), may be a memory map; read block by block, once for every ``query_block`` queries.
        exclude: an entry whose code agrees with the query's in one of these (its own id, its camera) is left out.
        device: where the float32 products are made.

    Memory beside the inputs: the queries in float32, a block of the gallery, ``query_block`` × ``gallery_block``
    scores (128 MiB), and k entries with those within the margin for each query.

    Raises:
        InputError: k below 1, no query or no entry, sizes that differ, NaN, infinity, or a vector of zeros.
    """
    if k < 1:
        raise InputError(f"{k} matches of a query, expected 1 or more")
    if not len(query_QD) or not len(gallery_GD):
        raise InputError(f"nothing to rank: {len(query_QD)} queries, {len(gallery_GD)} gallery tracklets")
    exact = CosineDistances(query_QD, gallery_GD)
    parts = []
    for start in range(0, len(query_QD), query_block):
        rows = slice(start, min(start + query_block, len(query_QD)))
        codes = [(query[rows], gallery) for query, gallery in exclude]
        query_C, gallery_C = _candidates(query_QD[rows], gallery_GD, k, codes, torch.device(device), gallery_block)
        score_C = 1.0 - exact.pairs(query_C + start, gallery_C).astype(np.float64)
        parts.append(NearestEntries.of(rows.stop - start, k, query_C, gallery_C, score_C))
    return NearestEntries(
        np.concatenate([part.gallery_QK for part in parts]), np.concatenate([part.score_QK for part in parts])
    )


def _candidates(
    query_QD: Floats, gallery_GD: Floats, k: int, exclude: Sequence[Codes], device: torch.device, block: int
) -> tuple[Indices, Indices]:
    """Pairs (query, entry) among which the first k of each query are."""
    query = _unit(query_QD, device)
    margin = _margin(query_QD.shape[1])
    codes = [(torch.from_numpy(asked).to(device), torch.from_numpy(there)) for asked, there in exclude]
    best_QK = torch.full((len(query), k), -torch.inf, device=device)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(gallery_GD), block):
        score_QG = query @ _unit(gallery_GD[start : start + block], device).T
        for asked_Q, there_G in codes:
            there = there_G[start : start + block].to(device)
            score_QG.masked_fill_((asked_Q[:, None] == there) & (there >= 0), -torch.inf)
        if start == 0:  # afterwards few entries come near the first k, and a comparison finds them
            first = min(k, score_QG.shape[1])
            best_QK[:, :first] = score_QG.topk(first).values
        query_C, place_C = torch.nonzero(score_QG >= (best_QK[:, -1:] - margin).clamp(min=-2), as_tuple=True)
        score_C = score_QG[query_C, place_C]
        if start > 0 and len(query_C):
            best_QK = _with_more(best_QK, query_C, score_C)
        kept.append((query_C, place_C + start, score_C))
    query_C, gallery_C, score_C = (torch.cat(parts) for parts in zip(*kept, strict=True))
    near = score_C >= best_QK[query_C, -1] - margin
    return query_C[near].numpy(force=True), gallery_C[near].numpy(force=True)


def _with_more(best_QK: Tensor, query_C: Tensor, score_C: Tensor) -> Tensor:
    """The k highest of each query's scores and those that came; ``query_C`` rises."""
    count_Q = torch.bincount(query_C, minlength=len(best_QK))
    first_Q = count_Q.cumsum(0) - count_Q
    more = torch.full((len(best_QK), int(count_Q.max())), -torch.inf, device=best_QK.device)
    more[query_C, torch.arange(len(query_C), device=more.device) - first_Q[query_C]] = score_C
    return torch.cat((best_QK, more), dim=1).topk(best_QK.shape[1]).values


def _unit(embedding_ND: Floats, device: torch.device) -> Tensor:
    values = torch.from_numpy(np.array(embedding_ND, np.float32)).to(device)  # a copy: a memory map cannot be written
    unit_ND: Tensor = values / torch.linalg.vector_norm(values, dim=1, keepdim=True, dtype=torch.float64).float()
    return unit_ND


def _margin(dimensions: int) -> float:
    """Twice the largest error of a float32 score of unit vectors, against the exact score.

    A sum of D products in any order errs by at most about D · 2⁻²⁴ (Higham, Accuracy and Stability, 3.5); rounding
    the vectors, here and to the exact scores' grid, adds a few units more.
    """
    return 2 * (dimensions + 16) * 2.0**-24 * 1.01
