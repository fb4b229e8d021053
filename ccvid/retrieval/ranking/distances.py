"""Sources of distances: a given matrix, or embeddings compared block by block.

Whatever looks at all distances is a fold over parts of the gallery: a function of one part gives a partial result, and
another merges two of them. A gallery in memory is one part; one that lies in stored parts need not be in one process.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from data_tools.errors import InputError

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
"""1 − distance, in float64."""

Result = TypeVar("Result")

BLOCK_BYTES = 2**24
"""Size of one block of distances: a few rows fit a core's cache."""

EXACT_UNIT = 2.0**-26
"""``CosineDistances`` rounds the coordinates of unit embeddings to multiples of this."""

GRID_ROWS = 128
"""Embeddings that are rounded to the grid at a time, and pairs whose distances are taken: they fit a core's cache."""

SMALLEST, LARGEST = 1e-30, 1e30
"""Range of an embedding's largest coordinate; outside it the direction is not reliable."""


class DistanceBlock(NamedTuple):
    """A rectangle of the distance matrix; ``values`` is (queries, gallery entries), beginning at the two starts."""

    query_start: int
    gallery_start: int
    values: Floats


class GalleryPart(NamedTuple):
    """The distances of all queries to N entries of a gallery, and those entries' gallery indices (N,), ascending."""

    distances: LocalDistances
    entry_N: Indices


class Distances(Protocol):
    """Distances of Q queries to G gallery entries; smaller is nearer.

    ``pairs``, and the blocks of the parts that ``fold`` goes through, give bit-identical values.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """(Q, G)."""

    def pairs(self, query_P: Indices, gallery_P: Indices) -> Floats:
        """The distances of P pairs."""

    def fold(self, work: Callable[[GalleryPart], Result], merge: Callable[[Result, Result], Result]) -> Result:
        """What ``work`` makes of each part of the gallery, merged.

        Parts hold any entries and may come in any order, so the result must not depend on either; they may be worked on
        in other processes, to which ``work`` and ``merge`` are sent. Every entry is in one part.
        """

    def take(self, query_rows: Indices, gallery_rows: Indices) -> Distances:
        """The distances between some rows of both sides, in the order given; no gallery row twice."""


class LocalDistances(Distances, Protocol):
    """Distances whose gallery is in this process; it is one part."""

    @abstractmethod
    def blocks(self) -> Iterator[DistanceBlock]:
        """Blocks that cover the matrix once, in any order."""

    def fold(self, work: Callable[[GalleryPart], Result], merge: Callable[[Result, Result], Result]) -> Result:
        del merge
        return work(GalleryPart(self, np.arange(self.shape[1])))

    @abstractmethod
    def take(self, query_rows: Indices, gallery_rows: Indices) -> LocalDistances: ...


class DistanceMatrix(LocalDistances):
    """Given distances (Q, G), NumPy or torch, of any real type; compared in their own precision.

    Raises InputError, which begins with ``origin`` (the file), for a wrong shape, NaN or infinity.
    """

    def __init__(self, matrix: npt.NDArray[np.generic] | torch.Tensor, *, origin: str = "distance matrix") -> None:
        if isinstance(matrix, torch.Tensor):
            matrix = (matrix.float() if matrix.dtype == torch.bfloat16 else matrix).numpy(force=True)
        if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
            raise InputError(
                f"{origin}: {matrix.dtype} of shape {matrix.shape}, expected numbers of shape (queries, gallery)"
            )
        kept = matrix.dtype if matrix.dtype in (np.float32, np.float64) else np.float64
        self._matrix: Floats = matrix.astype(kept, copy=False)
        _check_finite(self._matrix, f"{origin}: distance of query row")

    @property
    def shape(self) -> tuple[int, int]:
        return self._matrix.shape[0], self._matrix.shape[1]

    def pairs(self, query_P: Indices, gallery_P: Indices) -> Floats:
        return self._matrix[query_P, gallery_P]

    def blocks(self) -> Iterator[DistanceBlock]:
        for rows in _row_blocks(self._matrix):
            yield DistanceBlock(rows.start, 0, self._matrix[rows])

    def take(self, query_rows: Indices, gallery_rows: Indices) -> DistanceMatrix:
        part = copy(self)
        part._matrix = self._matrix[np.ix_(query_rows, gallery_rows)]
        return part


class CosineDistances(LocalDistances):
    """1 − cosine of query embeddings (Q, D) and gallery embeddings (G, D), without storing the (Q, G) matrix.

    The unit embeddings are rounded to multiples of 2⁻²⁶ (an error as small as float32's own). Every product is then a
    multiple of 2⁻⁵² and, by Cauchy–Schwarz, every partial sum is below 2: float64 holds them all exactly. So the
    distances, and with them ties and ranks, are bit-identical for any block size, number of threads, BLAS and device.

    Memory besides the embeddings: the queries once in float64, one gallery block in float64, one block of
    distances. The products are computed on ``device``; ranks are counted on the host.
    Raises InputError, which begins with ``origin``, for wrong shapes, NaN, infinity and zero vectors; with
    ``gallery_checked``, the gallery's values are not checked again.
    """

    def __init__(
        self,
        query_QD: Floats | torch.Tensor,
        gallery_GD: Floats | torch.Tensor,
        *,
        device: torch.device | str = "cpu",
        query_block: int = 256,
        gallery_block: int = 32768,
        gallery_checked: bool = False,
        origin: str = "embeddings",
    ) -> None:
        assert query_block > 0
        assert gallery_block > 0
        self.query_QD = _embedding_matrix(query_QD, f"{origin}: query")
        self.gallery_GD = _embedding_matrix(gallery_GD, f"{origin}: gallery", checked=gallery_checked)
        if self.query_QD.shape[1] != self.gallery_GD.shape[1]:
            raise InputError(
                f"{origin}: query embeddings have {self.query_QD.shape[1]} dimensions, "
                f"gallery embeddings {self.gallery_GD.shape[1]}; both must come from the same model"
            )
        self.device = torch.device(device)
        self._query_block, self._gallery_block = query_block, gallery_block

    @property
    def shape(self) -> tuple[int, int]:
        return self.query_QD.shape[0], self.gallery_GD.shape[0]

    def pairs(self, query_P: Indices, gallery_P: Indices) -> Floats:
        distance_P = np.empty(len(query_P))
        for start in range(0, len(query_P), GRID_ROWS):
            part = slice(start, start + GRID_ROWS)
            rows, row_P = np.unique(query_P[part], return_inverse=True)
            query_PD = on_grid(self.query_QD[rows])[row_P]
            distance_P[part] = 1.0 - np.einsum("pd,pd->p", query_PD, on_grid(self.gallery_GD[gallery_P[part]]))
        return distance_P

    def blocks(self) -> Iterator[DistanceBlock]:
        query_QD = torch.from_numpy(on_grid(self.query_QD)).to(self.device)
        for gallery_start in range(0, self.shape[1], self._gallery_block):
            entries = self.gallery_GD[gallery_start : gallery_start + self._gallery_block]
            gallery_DG = torch.from_numpy(on_grid(entries)).to(self.device).T
            for query_start in range(0, self.shape[0], self._query_block):
                cosine = query_QD[query_start : query_start + self._query_block] @ gallery_DG
                yield DistanceBlock(query_start, gallery_start, cosine.neg_().add_(1.0).numpy(force=True))

    def take(self, query_rows: Indices, gallery_rows: Indices) -> CosineDistances:
        part = copy(self)
        part.query_QD = self.query_QD[query_rows]
        if not np.array_equal(gallery_rows, np.arange(len(self.gallery_GD))):  # do not copy a large gallery
            part.gallery_GD = self.gallery_GD[gallery_rows]
        return part


def on_grid(embedding_ND: Floats) -> Scores:
    """Unit rows in float64, rounded to multiples of ``EXACT_UNIT``.

    The norm is rounded to float32 first, because its last bits depend on the order of the sum and so on the machine.
    """
    wide_ND: Scores = embedding_ND.astype(np.float64)
    for start in range(0, len(wide_ND), GRID_ROWS):
        rows_RD = wide_ND[start : start + GRID_ROWS]
        norm_R = np.sqrt(np.einsum("rd,rd->r", rows_RD, rows_RD)).astype(np.float32).astype(np.float64)
        rows_RD /= norm_R[:, None] * EXACT_UNIT
        np.rint(rows_RD, out=rows_RD)
        rows_RD *= EXACT_UNIT
    return wide_ND


def _embedding_matrix(embedding: Floats | torch.Tensor, origin: str, *, checked: bool = False) -> Floats:
    if isinstance(embedding, torch.Tensor):
        embedding = embedding.float().numpy(force=True)
    if embedding.ndim != 2 or embedding.dtype.kind != "f":
        raise InputError(
            f"{origin}: {embedding.dtype} of shape {embedding.shape}, expected floats of shape (rows, dimensions)"
        )
    embedding = embedding.astype(np.float32, copy=False)
    if checked:
        return embedding
    for rows in _row_blocks(embedding):
        largest = np.abs(embedding[rows]).max(axis=1, initial=0)
        for row in np.flatnonzero(~((largest >= SMALLEST) & (largest <= LARGEST))):
            _check_finite(embedding, f"{origin} embedding row")
            raise InputError(
                f"{origin} embedding row {rows.start + row}: largest absolute value is {largest[row]}, expected "
                f"{SMALLEST:g} to {LARGEST:g}"
            )
    return embedding


def _check_finite(values: Floats, what: str) -> None:
    for rows in _row_blocks(values):
        finite = np.isfinite(values[rows])
        if not finite.all():
            row, column = np.argwhere(~finite)[0] + (rows.start, 0)
            raise InputError(f"{what} {row}, column {column} is {values[row, column]}, expected a finite number")


def _row_blocks(matrix: Floats) -> Iterator[slice]:
    """Slices of about ``BLOCK_BYTES`` each, at least one row."""
    rows = max(1, BLOCK_BYTES // max(1, matrix.itemsize * matrix.shape[1]))
    for start in range(0, matrix.shape[0], rows):
        yield slice(start, start + rows)
