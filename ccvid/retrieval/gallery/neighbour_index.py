"""An index of the vectors of one matrix, such as a part of an embedding store, kept in a file beside them.

It is an HNSW graph (Malkov and Yashunin, TPAMI 2020; from usearch) over the vectors in float16, whose keys are the rows
of the matrix. It gives candidates only: scores come from the vectors themselves.

    bytes 0 – 4095   the description, JSON: of which vectors, written by which usearch, and the SHA-256 of the rest
    bytes 4096 –     what usearch saved, searched by memory map

Vectors are never added to or removed from a file. A part that grows or shrinks is another part with another index, so
that no byte of a removed vector can stay behind.

Each index is built by one thread, in the order of the rows, because the links that several threads make depend on their
timing. Threads build several indexes at once and divide the queries of a search; so the candidates are the same for any
number of threads. Another processor may round the float16 products differently, and so find a few other candidates.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from ccvid.retrieval.gallery.unit_vectors import unit
from ccvid.retrieval.ranking.distances import CosineDistances, Floats, Indices
from data_tools.documents import differences, parse_model
from data_tools.errors import InputError
from data_tools.files import atomic_file
from data_tools.options import Options
from data_tools.progress import Meter, message

CONNECTIVITY, EXPANSION = 16, 64
"""HNSW's M and efConstruction: links a vector, and candidates that are kept at a time while it is linked."""
LEAST_EXPANSION = 32
"""HNSW's ef: candidates that a search keeps at a time; at least twice as many as it is asked for."""
ROWS_AT_A_TIME = 8192
HEADER_BYTES = 4096
COMPARED_ROWS = 1024
WITHOUT_USEARCH = "approximate search needs usearch: pip install 'ccvid[ann]'"

Bytes = npt.NDArray[np.uint8]


class IndexDescription(Options):
    """What an index was built from; one that differs in anything is not used."""

    format_version: Literal[1] = 1
    usearch: str
    """Its version: its files are read without a check."""
    origin: str
    """Of the vectors, for example the fingerprint of their model."""
    rows: int = Field(ge=1)
    dimensions: int = Field(ge=1)
    vectors: str
    """SHA-256 of ``COMPARED_ROWS`` rows. Should others differ, some neighbours would be missed, no score be wrong."""
    content: str
    """SHA-256 of what usearch saved."""


class NeighbourIndex:
    """Finds the rows of a matrix that are probably nearest to a query. ``content`` is what usearch saved."""

    def __init__(self, content: Bytes, dimensions: int) -> None:
        self._content, self._dimensions = content, dimensions
        self._views: dict[int, Any] = {}
        self._rows = len(self._view(LEAST_EXPANSION))

    def __len__(self) -> int:
        return self._rows

    @classmethod
    def build(cls, vector_ND: Floats, *, added: Callable[[int], object] = lambda _: None) -> NeighbourIndex:
        """Index the rows of a matrix in the calling thread; ``added`` is called with each number of rows added.

        Memory: 2 D + 150 bytes a row, and up to 2 D + 1200 more while it is built.

        Raises:
            InputError: no row, NaN, infinity, a zero vector, or usearch is not installed.
        """
        CosineDistances(vector_ND[:1], vector_ND)  # raises an error that names the row
        blocks = (vector_ND[start : start + ROWS_AT_A_TIME] for start in range(0, len(vector_ND), ROWS_AT_A_TIME))
        return cls.of_blocks(blocks, vector_ND.shape[1], added=added)

    @classmethod
    def of_blocks(
        cls, blocks: Iterable[Floats], dimensions: int, *, added: Callable[[int], object] = lambda _: None
    ) -> NeighbourIndex:
        """As ``build``, from consecutive rows of the matrix, which are finite and not zero, at a time."""
        index, start = _empty(dimensions, LEAST_EXPANSION), 0
        for block_RD in blocks:
            index.add(np.arange(start, start + len(block_RD)), unit(block_RD), threads=1)
            start += len(block_RD)
            added(len(block_RD))
        return cls(np.frombuffer(index.save(), np.uint8), dimensions)

    def __reduce__(self) -> tuple[type[NeighbourIndex], tuple[Bytes, int]]:
        return NeighbourIndex, (self._content, self._dimensions)

    def candidates(self, query_QD: Floats, k: int) -> tuple[Indices, Indices]:
        """Up to k pairs (query, row) for each query, by query; searched by as many threads as torch uses."""
        wanted = min(k, len(self))
        expansion = max(LEAST_EXPANSION, 1 << (2 * wanted - 1).bit_length())
        found = self._view(expansion).search(unit(query_QD), wanted, threads=torch.get_num_threads())
        if len(query_QD) == 1:  # usearch then gives that query's matches alone
            return np.zeros(len(found), np.int64), np.asarray(found.keys).astype(np.int64)
        keys_QK = np.asarray(found.keys).reshape(len(query_QD), wanted).astype(np.int64)
        there_QK = np.arange(wanted) < np.asarray(found.counts).reshape(-1, 1)
        return np.nonzero(there_QK)[0], keys_QK[there_QK]

    def _view(self, expansion: int) -> Any:
        """One for each ef, because threads that search at the same time must not change it."""
        if (view := self._views.get(expansion)) is None:
            view = _empty(self._dimensions, expansion)
            view.view(self._content)
            self._views[expansion] = view
        return view

    def save(self, path: Path, vector_ND: Floats, origin: str) -> None:
        """Write the index of ``vector_ND``, atomically; OSError if that fails."""
        header = _description(vector_ND, origin, self._content).model_dump_json().encode()
        assert len(header) < HEADER_BYTES, origin
        with atomic_file(path) as file:
            file.write(header.ljust(HEADER_BYTES))
            file.write(self._content.data)

    @classmethod
    def open(cls, path: Path, vector_ND: Floats, origin: str) -> NeighbourIndex:
        """Map the index of ``vector_ND`` that ``save`` wrote.

        Raises:
            InputError: it is damaged, or was built from other vectors, for another origin or by another usearch.
            FileNotFoundError: there is none.
        """
        if path.stat().st_size <= HEADER_BYTES:
            raise InputError(f"{path}: not an index: {path.stat().st_size} bytes, expected more than {HEADER_BYTES}")
        with path.open("rb") as file:
            found = parse_model(IndexDescription, file.read(HEADER_BYTES).rstrip(), path)
        content: Bytes = np.memmap(path, np.uint8, "r", HEADER_BYTES)
        expected = _description(vector_ND, origin, content)
        if found != expected:
            changes = "; ".join(differences(found.model_dump(), expected.model_dump()))
            raise InputError(f"{path}: damaged, or the index of other vectors ({changes})")
        return cls(content, found.dimensions)


def usable_index(path: Path, vector_ND: Floats, origin: str) -> NeighbourIndex | None:
    """The index of ``vector_ND`` in a file; None if there is none, or, with a message, if it is not usable.

    Raises:
        InputError: usearch is not installed.
        OSError: the file cannot be read.
    """
    if not has_usearch():
        raise InputError(WITHOUT_USEARCH)
    try:
        return NeighbourIndex.open(path, vector_ND, origin)
    except FileNotFoundError:
        return None
    except InputError as error:
        message(f"{error}; it is not used")
        return None


def ready_index(path: Path, vector_ND: Floats, origin: str) -> NeighbourIndex:
    """As ``usable_index``, but built and written where it is not there.

    Only for who may write the vectors, too: an index that is written after they were removed would keep them.

    Raises:
        InputError: as ``NeighbourIndex.build``.
        OSError: the file cannot be read or written.
    """
    if (found := usable_index(path, vector_ND, origin)) is not None:
        return found
    meter = Meter(f"index {path.name}", len(vector_ND), "tracklets", brief=True)
    index = NeighbourIndex.build(vector_ND, added=lambda rows: meter.add(rows, tracklets=rows))
    index.save(path, vector_ND, origin)
    return index


def has_usearch() -> bool:
    """Whether usearch is installed."""
    try:
        return bool(importlib.metadata.version("usearch"))
    except importlib.metadata.PackageNotFoundError:
        return False


def _empty(dimensions: int, expansion_search: int) -> Any:
    try:
        from usearch.index import Index
    except ImportError:
        raise InputError(WITHOUT_USEARCH) from None
    return Index(
        ndim=dimensions,
        metric="ip",
        dtype="f16",
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION,
        expansion_search=expansion_search,
        enable_key_lookups=False,
    )


def _description(vector_ND: Floats, origin: str, content: Bytes) -> IndexDescription:
    rows, dimensions = vector_ND.shape
    some = np.unique(np.linspace(0, rows - 1, COMPARED_ROWS).astype(np.int64))
    return IndexDescription(
        usearch=importlib.metadata.version("usearch"),
        origin=origin,
        rows=rows,
        dimensions=dimensions,
        vectors=hashlib.sha256(np.ascontiguousarray(vector_ND[some], np.float32).data).hexdigest(),
        content=hashlib.sha256(content.data).hexdigest(),
    )
