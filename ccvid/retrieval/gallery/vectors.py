"""Embeddings of N tracklets in numbered rows, wherever they lie: in memory, or in the mapped parts of a store.

Whoever works on some of the rows opens all of them, which reads nothing yet, and takes what it needs. Both kinds can be
pickled: a stored one holds only where each row is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ccvid.retrieval.embedding.part_file import Part
from ccvid.retrieval.embedding.part_folder import PartFolder
from ccvid.retrieval.embedding.table import EmbeddingRows, check_distinct
from ccvid.retrieval.gallery.slices import IN_THREADS, SliceRunner, slices_of
from ccvid.retrieval.ranking.distances import CosineDistances, Floats, Indices, Scores
from data_tools.errors import InputError
from data_tools.wording import one_line

PAIRS = 2048
"""Pairs that a thread scores exactly at a time: their vectors fit a core's cache."""

Numbers = npt.NDArray[np.int32]
"""Of rows, or places of rows; four bytes each, because there is one for each tracklet, or several."""
AnyNumbers = npt.NDArray[np.signedinteger]


@dataclass(frozen=True, slots=True)
class OpenVectors:
    """N embeddings in matrices (R, D), in memory or mapped: row n is row ``place_N[n]`` of matrix ``matrix_N[n]``."""

    matrices: Sequence[Floats]
    matrix_N: Numbers
    place_N: Numbers

    def each(self) -> Iterator[tuple[Indices, Floats]]:
        """The numbers of each matrix's rows, ascending, and their embeddings, which are a copy unless it is whole."""
        for number, matrix_RD in enumerate(self.matrices):
            row_R = np.flatnonzero(self.matrix_N == number)
            place_R = self.place_N[row_R]
            is_whole = np.array_equal(place_R, np.arange(len(matrix_RD)))
            if len(row_R):
                yield row_R, matrix_RD if is_whole else matrix_RD[place_R]

    def take(self, row_M: AnyNumbers) -> Floats:
        """A copy (M, D) of some rows."""
        taken_MD = np.empty((len(row_M), self.matrices[0].shape[1]), self.matrices[0].dtype)
        matrix_M, place_M = self.matrix_N[row_M], self.place_N[row_M]
        for number in np.unique(matrix_M).tolist():
            here = np.flatnonzero(matrix_M == number)
            taken_MD[here] = self.matrices[number][place_M[here]]
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
        rows = self.shape[0]
        return nullcontext(OpenVectors([self._embedding_ND], np.zeros(rows, np.int32), np.arange(rows, dtype=np.int32)))


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """The embeddings of a store by id; see ``read_stored``. Memory: 8 bytes a row.

    Opening maps the parts; those on object storage are copied to this machine's disk meanwhile.
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
        """For reading within the block.

        Raises:
            InputError: a part is damaged, or gone because another command replaced it.
        """
        with ExitStack() as stack:
            opened = _enter(stack, self.parts, self.names)
            yield OpenVectors([part.embedding_ND for part in opened], self.matrix_N, self.place_N)


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
            matrix_N = np.concatenate((first.matrix_N, second.matrix_N + np.int32(len(first.matrices))))
            place_N = np.concatenate((first.place_N, second.place_N))
            yield OpenVectors([*first.matrices, *second.matrices], matrix_N, place_N)


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
    with ExitStack() as stack:
        opened = _enter(stack, parts, names[which])
        for part in opened:
            CosineDistances(part.embedding_ND[:1], part.embedding_ND, origin=str(part.path))  # raises
        return [part.rows for part in opened]


def _enter(stack: ExitStack, parts: PartFolder, names: Sequence[str]) -> list[Part]:
    try:
        return stack.enter_context(parts.opened(names))
    except FileNotFoundError as error:
        raise InputError(
            f"{parts.folder}: parts were removed or merged by another command meanwhile; run the same command again "
            f"({one_line(error)})"
        ) from None
