"""Find the gallery entries that could be among a query's first k, from quick scores, without storing all scores.

The gallery is read once, block by block; groups of queries take in each block in turn.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ccvid.retrieval.ranking.distances import LARGEST, SMALLEST, CosineDistances, Floats, Indices, Scores
from ccvid.retrieval.ranking.nearest import PIECE, Codes, NearCandidates
from ccvid.retrieval.ranking.quick_scores import core_threads, for_threads, made_ahead, margin, row_groups, tiles
from data_tools.decoding_threads import Job, fill_in_threads

FIRST_BLOCK = 4096
"""Size of the first block on a GPU: its k best are found by selection, which takes longer than comparison."""
COPIED = 1024
"""Rows of a block that a thread copies at a time."""
TILE_SCORES = 2**19
"""Of a tile on the CPU: enough that what is done once a tile takes little time."""
NEARLY_UNIT = 2.0**-18
"""Vectors whose norms differ from 1 by less, as those of an embedding store do, are taken as they are."""
SAFE = 1e15
"""Norms up to this, and from its inverse on, neither overflow nor vanish when they are taken in float32."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The first ``k``, by quick scores from vectors of ``dtype`` on ``device``, in blocks of these sizes.

    ``exclude`` and ``least_Q`` are those of ``NearCandidates``.
    """

    k: int
    exclude: Sequence[Codes]
    least_Q: Scores | None
    device: torch.device
    query_block: int
    gallery_block: int
    dtype: torch.dtype


def find_candidates(exact: CosineDistances, wanted: Wanted) -> tuple[Indices, Indices]:
    """Pairs (query, entry), by query, that include the first k of each query.

    Raises:
        InputError: the gallery holds NaN, infinity or a zero vector; it need not have been checked before.
    """
    found = _on_gpu(exact, wanted) if wanted.device.type == "cuda" else _on_cpu(exact, wanted)
    return np.concatenate([query_C for query_C, _ in found]), np.concatenate([gallery_C for _, gallery_C in found])


class _Group:
    """Some queries, and their candidates so far."""

    def __init__(self, exact: CosineDistances, wanted: Wanted, rows: range) -> None:
        asked = slice(rows.start, rows.stop)
        query = torch.from_numpy(np.array(exact.query_QD[asked])).to(wanted.device)
        self._exact, self._rows, self._wanted = exact, rows, wanted
        self._query = _unit(query).to(wanted.dtype)
        self._near = NearCandidates(
            len(rows),
            wanted.k,
            margin(query.shape[1], wanted.dtype) + 2 * NEARLY_UNIT,
            self._scores,
            least_Q=None if wanted.least_Q is None else wanted.least_Q[asked],
            exclude=[(query_code[asked], gallery_code) for query_code, gallery_code in wanted.exclude],
            device=wanted.device,
        )

    def look(self, unit_ND: Tensor, start: int) -> None:
        """Take in a block of unit vectors, which begins at ``start`` in the gallery, in tiles."""
        on_gpu = self._wanted.device.type == "cuda"
        width = self._wanted.gallery_block if on_gpu else max(1, TILE_SCORES // PIECE // len(self._rows)) * PIECE
        for tile, score_QN in tiles(self._query, unit_ND, width):
            self._near.look(score_QN, start + tile)

    def found(self) -> tuple[Indices, Indices]:
        query_C, gallery_C = self._near.found()
        return self._rows.start + query_C, gallery_C

    def _scores(self, query_C: Indices, gallery_C: Indices) -> Scores:
        scores: Scores = 1.0 - self._exact.pairs(self._rows.start + query_C, gallery_C).astype(np.float64)
        return scores


def _on_cpu(exact: CosineDistances, wanted: Wanted) -> list[tuple[Indices, Indices]]:
    """Groups of queries are divided among threads, and the next block is made ready meanwhile."""
    queries, entries = exact.shape
    with core_threads() as threads:
        rows = row_groups(range(queries), for_threads(queries, wanted.query_block))
        groups = list(threads.map(partial(_Group, exact, wanted), rows))
        starts = range(0, entries, wanted.gallery_block)
        for start, unit_ND in made_ahead(threads, partial(_unit_block, exact, wanted), starts):
            for _ in threads.map(partial(_Group.look, unit_ND=unit_ND, start=start), groups):
                pass
        return list(threads.map(_Group.found, groups))


def _unit_block(exact: CosineDistances, wanted: Wanted, start: int) -> Tensor:
    values_ND = exact.gallery_GD[start : start + wanted.gallery_block]
    norm_N = np.sqrt(np.einsum("nd,nd->n", values_ND, values_ND))
    if (np.abs(norm_N - 1) < 0.99 * NEARLY_UNIT).all():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is read-only where it is mapped
            return torch.from_numpy(values_ND).to(wanted.dtype)
    if not ((norm_N >= 1 / SAFE) & (norm_N <= SAFE)).all():
        CosineDistances(
            exact.query_QD, exact.gallery_GD
        )  # if a vector is not valid, raises an error that names its row
        norm_N = np.linalg.norm(values_ND.astype(np.float64), axis=1).astype(np.float32)
    return torch.from_numpy(values_ND / norm_N[:, None]).to(wanted.dtype)


def _on_gpu(exact: CosineDistances, wanted: Wanted) -> list[tuple[Indices, Indices]]:
    """Blocks are copied ahead to page-locked memory, so that the GPU does not wait for them."""
    queries, entries = exact.shape
    groups = [_Group(exact, wanted, rows) for rows in row_groups(range(queries), wanted.query_block)]
    usable = torch.ones((), dtype=torch.bool, device=wanted.device)
    starts = [0, *range(min(wanted.gallery_block, FIRST_BLOCK), entries, wanted.gallery_block)]
    for copied in copied_ahead(exact.gallery_GD, starts, pin_memory=True):
        values = copied.values.to(wanted.device, non_blocking=True)
        usable &= _have_directions(values)
        unit_ND = _unit(values).to(wanted.dtype)
        for group in groups:
            group.look(unit_ND, copied.start)
    if not usable:
        CosineDistances(exact.query_QD, exact.gallery_GD)  # raises an error that names the row
    return [group.found() for group in groups]


@dataclass(frozen=True, slots=True)
class _Block:
    """Gallery entries from ``start`` on, copied piece by piece into ``values``, (entries, D) float32."""

    start: int
    values: Tensor

    def __len__(self) -> int:
        return -(-len(self.values) // COPIED)

    def copy_piece(self, gallery_GD: Floats, number: int) -> None:
        own = self.values[number * COPIED : (number + 1) * COPIED].numpy()
        begin = self.start + number * COPIED
        np.copyto(own, gallery_GD[begin : begin + len(own)], casting="same_kind")


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


def _unit(values_ND: Tensor) -> Tensor:
    unit_ND: Tensor = values_ND / torch.linalg.vector_norm(values_ND, dim=1, keepdim=True, dtype=torch.float64).float()
    return unit_ND
