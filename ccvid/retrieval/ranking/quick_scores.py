"""Quick scores: products of unit vectors in float32, in tiles that stay in a core's cache, and how far they can err.

Exact scores (``CosineDistances``) are needed only for the few pairs that the error leaves in doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ccvid.retrieval.ranking.distances import Scores
from data_tools.decoding_threads import one_core_a_thread

FLOAT32_UNIT = 2.0**-24

Block = TypeVar("Block")


def quick_error(dimensions: int, cosine: Scores) -> Scores:
    """Largest errors of float32 products of unit vectors whose exact scores are ``cosine``, in any order of the sum.

    Each of the D additions errs by at most 2⁻²⁴ of its result, and each result is a sum of some of the terms: at most
    the positive or the negative ones, which by Cauchy–Schwarz is at most (1 + |cosine|) / 2 (compare Higham, Accuracy
    and Stability, 4.2, with 1 for it). Products, and rounding the vectors and the exact scores' grid, add a few units.
    """
    error: Scores = (dimensions * (1 + np.abs(cosine)) / 2 + 16) * FLOAT32_UNIT * 1.01
    return error


def margin(dimensions: int, dtype: torch.dtype) -> float:
    """Twice the largest error of a quick score of unit vectors of ``dtype`` whose norms were taken in float32.

    A norm errs by at most D / 2 units. Float16 changes each coordinate by up to 2⁻¹¹ of itself, small ones by at most
    2⁻²⁵: by Cauchy–Schwarz 2⁻¹⁰ and √D · 2⁻²⁴ of a score. Tensor cores truncate sums instead of rounding, which doubles
    that error; twice as much is allowed for.
    """
    if dtype == torch.float16:
        return 2 * (2.0**-10 + (dimensions + 64) * 2.0**-22) * 1.01
    return 2 * (float(quick_error(dimensions, np.ones(()))) + dimensions / 2 * FLOAT32_UNIT * 1.01)


def row_groups(rows: range, most: int) -> list[range]:
    """Consecutive groups of up to ``most`` rows."""
    return [rows[start : start + most] for start in range(0, len(rows), most)]


def for_threads(rows: int, most: int) -> int:
    """Rows of a group: up to ``most``, fewer where each thread would not have two groups."""
    return max(1, min(most, -(-rows // (2 * torch.get_num_threads()))))


def core_threads() -> ThreadPoolExecutor:
    """As many threads as torch uses, each with one core."""
    return ThreadPoolExecutor(torch.get_num_threads(), initializer=one_core_a_thread)


def made_ahead(
    threads: ThreadPoolExecutor, make: Callable[[int], Block], starts: Sequence[int]
) -> Iterator[tuple[int, Block]]:
    """Each start and what is made of it; the next is made by one of the threads meanwhile."""
    following = threads.submit(make, starts[0])
    for start, after in zip(starts, [*starts[1:], None], strict=True):
        block = following.result()
        if after is not None:
            following = threads.submit(make, after)
        yield start, block


def tiles(query_QD: Tensor, gallery_GD: Tensor, width: int) -> Iterator[tuple[int, Tensor]]:
    """Where each tile begins in the gallery, and its float32 scores (Q, up to ``width``), which the next overwrites."""
    if query_QD.dtype != torch.float32 and query_QD.device.type == "cpu":
        query_QD, gallery_GD = query_QD.float(), gallery_GD.float()
    parts = ((start, gallery_GD[start : start + width].T) for start in range(0, len(gallery_GD), width))
    if query_QD.dtype != torch.float32:
        yield from ((start, torch.mm(query_QD, part_DN, out_dtype=torch.float32)) for start, part_DN in parts)
        return
    values = torch.empty(len(query_QD) * min(width, len(gallery_GD)), device=query_QD.device)
    for start, part_DN in parts:
        score_QN = values[: len(query_QD) * part_DN.shape[1]].view(len(query_QD), -1)
        yield start, torch.mm(query_QD, part_DN, out=score_QN)
