"""Embeddings of N tracklets in numbered rows, wherever they lie: in memory, or in the mapped parts of a store.

Whoever works on some of the rows opens all of them, which reads nothing yet, and takes what it needs: a part is opened
when the first of its rows is taken. Both kinds can be pickled: a stored one holds only where each row is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ccvid.retrieval.embedding.part_folder import PartFolder
from ccvid.retrieval.embedding.table import EmbeddingRows, check_distinct
from ccvid.retrieval.gallery.slices import IN_THREADS, SliceRunner, slices_of
from ccvid.retrieval.ranking.distances import CosineDistances, Floats, Indices, Scores
from data_tools.errors import InputError

PAIRS = 2048
"""Pairs that a thread scores exactly at a time: their vectors fit a core's cache."""

Numbers = npt.NDArray[np.int32]
"""Of rows, or places of rows; four bytes each, because there is one for each tracklet, or several."""
AnyNumbers = npt.NDArray[np.signedinteger]


@dataclass(frozen=True, slots=True)
class OpenVectors:
    """N embeddings in matrices (R, D), in memory or mapped: row n is row ``place_N[n]`` of ``matrix(matrix_N[n])``."""

    matrix: Callable[[int], Floats]
    """Opens it, if need be."""
    matrices: int
    matrix_N: Numbers
    place_N: Numbers
    dimensions: int

    def each(self) -> Iterator[tuple[Indices, Floats]]:
        """The numbers of each matrix's rows, ascending, and their embeddings, which are a copy unless it is whole."""
        for number in range(self.matrices):
            row_R = np.flatnonzero(self.matrix_N == number)
            if len(row_R):
                matrix_RD, place_R = self.matrix(number), self.place_N[row_R]
                is_whole = np.array_equal(place_R, np.arange(len(matrix_RD)))
                yield row_R, matrix_RD if is_whole else matrix_RD[place_R]

    def take(self, row_M: AnyNumbers) -> Floats:
        """A copy (M, D) of some rows."""
        taken_MD = np.empty((len(row_M), self.dimensions), np.float32)
        matrix_M, place_M = self.matrix_N[row_M], self.place_N[row_M]
        for number in np.unique(matrix_M).tolist():
            here = np.flatnonzero(matrix_M == number)
            taken_MD[here] = self.matrix(number)[place_M[here]]
        return taken_MD

    def pairs(self, first_P: AnyNumbers, second_P: AnyNumbers) -> Scores:
        """The exact distances (1 − cosine) of P pairs of rows."""
        distance_P = np.empty(len(first_P))
        for start in range(0, len(first_P), PAIRS):
            part = slice(start, start + PAIRS)
            rows, first_C = np.unique(first_P[part], return_inverse=True)
            others, second_C = np.unique(second_P[part], return_inverse=True)
            both = CosineDistances(self.take(rows), self.take(others), gallery_checked=True)
            distance_P[part] = both.pairs(first_C, second_C)
        return distance_P


class Vectors(Protocol):
    """Embeddings (N, D), float32, finite and not zero."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""

    def opened(self) -> AbstractContextManager[OpenVectors]:
        """For reading within the block."""


class MatrixVectors:
    """A matrix in memory, of any floats.

    Raises:
        InputError: NaN, infinity, or a zero vector.
    """

    def __init__(self, embedding_ND: Floats) -> None:
        self._embedding_ND = CosineDistances(embedding_ND[:1], embedding_ND).gallery_GD

    @property
    def shape(self) -> tuple[int, int]:
        return self._embedding_ND.shape[0], self._embedding_ND.shape[1]

    def opened(self) -> AbstractContextManager[OpenVectors]:
        rows, dimensions = self.shape
        number_N = np.arange(rows, dtype=np.int32)
        return nullcontext(OpenVectors(lambda _: self._embedding_ND, 1, np.zeros_like(number_N), number_N, dimensions))


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """The embeddings of a store by id; see ``read_stored``. Memory: 8 bytes a row.

    Only the parts whose rows are used are opened, and then mapped; those on object storage are copied to this machine's
    disk, see ``PartFolder``.
    """

    parts: PartFolder
    names: tuple[str, ...]
    """Of its parts when it was read."""
    matrix_N: Numbers
    place_N: Numbers

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.matrix_N), self.parts.dimensions

    def rows(self, row_M: AnyNumbers) -> StoredVectors:
        """Some rows, in the order given."""
        return replace(self, matrix_N=self.matrix_N[row_M], place_N=self.place_N[row_M])

    @contextmanager
    def opened(self) -> Iterator[OpenVectors]:
        """For reading within the block. Using its rows raises as ``PartFolder.opened``."""
        with ExitStack() as stack:

            @cache
            def matrix(number: int) -> Floats:
                (part,) = stack.enter_context(self.parts.opened([self.names[number]]))
                return part.embedding_ND

            yield OpenVectors(matrix, len(self.names), self.matrix_N, self.place_N, self.shape[1])


@dataclass(frozen=True, slots=True)
class JoinedVectors:
    """The rows of one, then those of another of as many dimensions."""

    first: Vectors
    second: Vectors

    @property
    def shape(self) -> tuple[int, int]:
        return self.first.shape[0] + self.second.shape[0], self.first.shape[1]

    @contextmanager
    def opened(self) -> Iterator[OpenVectors]:
        with self.first.opened() as first, self.second.opened() as second:
            matrix_N = np.concatenate((first.matrix_N, second.matrix_N + np.int32(first.matrices)))
            place_N = np.concatenate((first.place_N, second.place_N))

            def matrix(number: int) -> Floats:
                own = number < first.matrices
                return first.matrix(number) if own else second.matrix(number - first.matrices)

            yield OpenVectors(matrix, first.matrices + second.matrices, matrix_N, place_N, self.shape[1])


def read_stored(parts: PartFolder, run: SliceRunner = IN_THREADS) -> tuple[EmbeddingRows, StoredVectors]:
    """The labels of a store by id, and its embeddings, which are checked but not kept in memory.

    Raises:
        InputError: it is empty, a part cannot be read or is from another embedder, an embedding holds NaN or infinity
            or is zero, or an id is in two parts.
    """
    names = tuple(parts.names())
    if not names:
        raise InputError(f"{parts.folder}: the embedding store is empty")
    found = list(chain(*run("reading", partial(_labels_of, parts, names), slices_of(len(names), 1), unit="parts")))
    counts = np.array([len(rows) for rows in found])
    every = EmbeddingRows(pa.concat_tables([rows.columns for rows in found]))
    order = pc.sort_indices(every.columns["id"]).to_numpy()
    rows = every.take(order)
    try:
        check_distinct(rows)
    except InputError as error:
        raise InputError(f"{parts.folder}: {error}") from None
    matrix_N = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    place_N = (np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.int32)
    return rows, StoredVectors(parts, names, matrix_N[order], place_N[order])


def _labels_of(parts: PartFolder, names: Sequence[str], which: slice) -> list[EmbeddingRows]:
    """The labels of some parts, whose embeddings are checked."""
    with parts.opened(names[which]) as opened:
        for part in opened:
            CosineDistances(part.embedding_ND[:1], part.embedding_ND, origin=str(part.path))  # raises
        return [part.rows for part in opened]
