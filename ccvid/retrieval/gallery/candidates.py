"""Find the gallery entries that could be among a query's first k, from quick scores, without storing all scores.

A quick score is a float32 sum of products of unit vectors in float32 or float16, whose error against the exact score is
bounded (``margin``). Every entry within that bound of a query's k-th best is a candidate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccvid.retrieval.ranking.distances import LARGEST, SMALLEST, CosineDistances, Floats, Indices
from data_tools.decoding_threads import Job, fill_in_threads

Codes = tuple[Indices, Indices]
"""A label of the queries (Q,) and of the gallery (G,) as shared integer codes; −1 is unknown."""

FIRST_BLOCK = 4096
"""Size of the first block on a GPU: its k best are found by selection, which takes longer than comparison."""
PIECE = 1024
"""Rows of a block that a thread copies at a time."""


def find_candidates(
    query_QD: Floats,
    gallery_GD: Floats,
    k: int,
    exclude: Sequence[Codes],
    device: torch.device,
    block: int,
    dtype: torch.dtype,
) -> tuple[Indices, Indices]:
    """Pairs (query, entry), by query, that include the first k of each query; for the arguments see ``search``.

    Raises:
        InputError: on a GPU, if the gallery holds NaN, infinity or a zero vector; it was not checked before.
    """
    query = _unit(torch.from_numpy(np.array(query_QD, np.float32)).to(device)).to(dtype)
    near = margin(query_QD.shape[1], dtype)
    codes = [(torch.from_numpy(asked).to(device), torch.from_numpy(there)) for asked, there in exclude]
    best_QK = torch.full((len(query), k), -torch.inf, device=device)
    usable = torch.ones((), dtype=torch.bool, device=device)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for start, values in _blocks(gallery_GD, block, device):
        if device.type == "cuda":
            usable &= _have_directions(values)
        score_QG = _products(query, _unit(values).to(dtype))
        for asked_Q, there_G in codes:
            there = there_G[start : start + len(values)].to(device)
            score_QG.masked_fill_((asked_Q[:, None] == there) & (there >= 0), -torch.inf)
        if start == 0:  # later, few entries come near the first k, and a comparison finds them
            first = min(k, score_QG.shape[1])
            best_QK[:, :first] = score_QG.topk(first).values
        query_C, place_C = torch.nonzero(score_QG >= (best_QK[:, -1:] - near).clamp(min=-2), as_tuple=True)
        score_C = score_QG[query_C, place_C]
        if start > 0 and len(query_C):
            best_QK = _with_more(best_QK, query_C, score_C)
        kept.append((query_C, place_C + start, score_C))
    if not usable:
        CosineDistances(query_QD, gallery_GD)  # raises an error that names the row
    query_C, gallery_C, score_C = (torch.cat(parts) for parts in zip(*kept, strict=True))
    left = score_C >= best_QK[query_C, -1] - near
    query_C, gallery_C = query_C[left], gallery_C[left]
    order = query_C.argsort(stable=True)
    return query_C[order].numpy(force=True), gallery_C[order].numpy(force=True)


def margin(dimensions: int, dtype: torch.dtype) -> float:
    """Twice the largest error of a quick score of unit vectors of ``dtype``, against the exact score.

    A float32 sum of D products in any order has an error of at most about D · 2⁻²⁴ (Higham, Accuracy and Stability,
    3.5); rounding the vectors, here and to the exact scores' grid, adds a few units more. Float16 changes each
    coordinate by up to 2⁻¹¹ of itself, small ones by at most 2⁻²⁵: by Cauchy–Schwarz 2⁻¹⁰ and √D · 2⁻²⁴ of a score.
    Tensor cores truncate sums instead of rounding, which doubles that error; twice as much is allowed for.
    """
    if dtype == torch.float16:
        return 2 * (2.0**-10 + (dimensions + 64) * 2.0**-22) * 1.01
    return 2 * (dimensions + 16) * 2.0**-24 * 1.01


@dataclass(frozen=True, slots=True)
class _Block:
    """Gallery entries from ``start`` on, copied piece by piece into ``values``, (entries, D) float32."""

    start: int
    values: Tensor

    def __len__(self) -> int:
        return -(-len(self.values) // PIECE)

    def copy_piece(self, gallery_GD: Floats, number: int) -> None:
        own = self.values[number * PIECE : (number + 1) * PIECE].numpy()
        begin = self.start + number * PIECE
        np.copyto(own, gallery_GD[begin : begin + len(own)], casting="same_kind")


def _blocks(gallery_GD: Floats, block: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """The start of each block, and its values (entries, D) in float32 on the device.

    For a GPU, blocks are copied ahead to page-locked memory, so that the GPU does not wait for them.
    """
    if device.type != "cuda":
        for start in range(0, len(gallery_GD), block):  # copied, because a memory map is read-only
            yield start, torch.from_numpy(np.array(gallery_GD[start : start + block], np.float32))
        return
    starts = [0, *range(min(block, FIRST_BLOCK), len(gallery_GD), block)]
    for copied in copied_ahead(gallery_GD, starts, pin_memory=True):
        yield copied.start, copied.values.to(device, non_blocking=True)


def copied_ahead(gallery_GD: Floats, starts: Sequence[int], *, pin_memory: bool) -> Iterator[_Block]:
    """The blocks that begin at ``starts``, copied by as many threads as torch uses."""

    def job(start: int, stop: int) -> Job[_Block]:
        shape = (stop - start, gallery_GD.shape[1])
        block = _Block(start, torch.empty(shape, dtype=torch.float32, pin_memory=pin_memory))
        return block, lambda number: block.copy_piece(gallery_GD, number)

    jobs = map(job, starts, [*starts[1:], len(gallery_GD)])
    return fill_in_threads(jobs, threads=torch.get_num_threads(), ahead=2)


def _have_directions(values: Tensor) -> Tensor:
    """Whether no row holds NaN or infinity or is zero, as a bool on the device."""
    largest_N = values.abs().amax(dim=1)
    return ((largest_N >= SMALLEST) & (largest_N <= LARGEST)).all()


def _products(query: Tensor, gallery: Tensor) -> Tensor:
    """(Q, D), (G, D) -> float32 (Q, G), summed in float32."""
    if query.dtype == torch.float32:
        return query @ gallery.T
    if query.device.type == "cuda":
        return torch.mm(query, gallery.T, out_dtype=torch.float32)
    return query.float() @ gallery.float().T


def _with_more(best_QK: Tensor, query_C: Tensor, score_C: Tensor) -> Tensor:
    """The k highest of each query's scores so far and the new ones; ``query_C`` is sorted."""
    count_Q = torch.bincount(query_C, minlength=len(best_QK))
    first_Q = count_Q.cumsum(0) - count_Q
    more = torch.full((len(best_QK), int(count_Q.max())), -torch.inf, device=best_QK.device)
    more[query_C, torch.arange(len(query_C), device=more.device) - first_Q[query_C]] = score_C
    return torch.cat((best_QK, more), dim=1).topk(best_QK.shape[1]).values


def _unit(values_ND: Tensor) -> Tensor:
    unit_ND: Tensor = values_ND / torch.linalg.vector_norm(values_ND, dim=1, keepdim=True, dtype=torch.float64).float()
    return unit_ND
