"""Searching a gallery part by part: partial results are merged into what one search of the whole would give."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ccvid.retrieval.embedding.part_folder import PartFolder
from ccvid.retrieval.embedding.table import EmbeddingRows, EmbeddingTable, check_distinct, shared_codes
from ccvid.retrieval.gallery.approximate_search import IndexedPart, indexed_part, recall
from ccvid.retrieval.gallery.search import search
from ccvid.retrieval.ranking.distances import Indices
from ccvid.retrieval.ranking.nearest import NearestEntries


@dataclass(frozen=True, slots=True)
class FoundEntries:
    """The first K entries of each of Q queries in some parts of a gallery.

    ``rows`` are the entries found, by id; ``nearest.gallery_QK`` are indices into them. Equal scores are in order of
    id, so that merging gives the same whatever the parts and their order.
    """

    rows: EmbeddingRows
    nearest: NearestEntries

    @classmethod
    def none(cls, queries: int, k: int) -> FoundEntries:
        """Of no part."""
        return cls(EmbeddingRows.of([]), NearestEntries(np.full((queries, k), -1), np.full((queries, k), -np.inf)))

    @classmethod
    def of(cls, rows: EmbeddingRows, nearest: NearestEntries) -> FoundEntries:
        """Of ``rows`` in order of id, keeping those that were found."""
        there = nearest.gallery_QK >= 0
        found, place = np.unique(nearest.gallery_QK[there], return_inverse=True)
        gallery_QK = np.full_like(nearest.gallery_QK, -1)
        gallery_QK[there] = place
        return cls(rows.take(found), NearestEntries(gallery_QK, nearest.score_QK))

    def merged(self, other: FoundEntries) -> FoundEntries:
        """The first K of both.

        Raises:
            InputError: an id is in both.
        """
        both = EmbeddingRows(pa.concat_tables([self.rows.columns, other.rows.columns]))
        order = pc.sort_indices(both.columns["id"]).to_numpy()
        rows, place_N = both.take(order), np.argsort(order)
        check_distinct(rows)
        (queries, k), sides = self.nearest.gallery_QK.shape, ((self, 0), (other, len(self.rows)))
        found = [np.nonzero(side.nearest.gallery_QK >= 0) for side, _ in sides]
        nearest = NearestEntries.of(
            queries,
            k,
            np.concatenate([query_C for query_C, _ in found]),
            np.concatenate(
                [place_N[start + side.nearest.gallery_QK[at]] for (side, start), at in zip(sides, found, strict=True)]
            ),
            np.concatenate([side.nearest.score_QK[at] for (side, _), at in zip(sides, found, strict=True)]),
        )
        return FoundEntries.of(rows, nearest)


def search_part(
    queries: EmbeddingTable,
    entries: EmbeddingTable,
    k: int,
    *,
    exclude: Sequence[str] = ("id",),
    found: FoundEntries | None = None,
) -> FoundEntries:
    """The first K of a part's entries, which are in order of id, and of those that were ``found`` in other parts.

    Args:
        exclude: columns; an entry with the query's own value in one of them is left out.
    """
    found = FoundEntries.none(len(queries.rows), k) if found is None else found
    if not len(entries.rows):
        return found
    codes = [shared_codes(queries.rows.text(name), entries.rows.text(name)) for name in exclude]
    least_Q = found.nearest.score_QK[:, -1]
    nearest = search(queries.embedding_ND, entries.embedding_ND, k, exclude=codes, least_Q=least_Q)
    return found.merged(FoundEntries.of(entries.rows, nearest))


def search_indexed_part(
    queries: EmbeddingTable,
    part: IndexedPart,
    rows: EmbeddingRows,
    chosen: Indices,
    k: int,
    *,
    exclude: Sequence[str] = ("id",),
) -> FoundEntries:
    """As ``search_part`` for the ``chosen`` rows of a part, by its index: entries may be missing, scores are exact."""
    codes = [shared_codes(queries.rows.text(name), rows.text(name)) for name in exclude]
    return FoundEntries.of(rows, part.neighbours(queries.embedding_ND, k, exclude=codes, chosen=chosen))


def recall_of(found: FoundEntries, exact: FoundEntries, asked: Indices) -> float:
    """The share of the exact entries that was found; ``exact`` is of the queries ``asked`` only."""
    code_F, code_E = shared_codes(found.rows.text("id"), exact.rows.text("id"))
    found_QK, exact_QK = found.nearest.gallery_QK[asked], exact.nearest.gallery_QK
    return recall(np.append(code_E, -1)[exact_QK], np.append(code_F, -1)[found_QK])  # −1 stays −1


def keep_indexes(parts: PartFolder) -> None:
    """Write an index beside each large part that lacks one, as many at once as torch has threads.

    Writers wait meanwhile, because an index that is written after its part was removed would keep the vectors.

    Raises:
        InputError: a part is damaged, or usearch is not installed.
        OSError: an index cannot be written.
    """

    def keep(name: str) -> None:
        path = parts.index_path(name)
        if path is not None:
            with parts.opened([name]) as (part,):
                indexed_part(part.embedding_ND, path, parts.model, build=True)

    with parts.writing(), ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(keep, parts.names()))
