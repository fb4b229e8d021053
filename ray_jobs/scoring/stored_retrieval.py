"""A labelled retrieval whose gallery stays in the parts of its store: labels and queries are read, nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import add

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ccvid.config import ScoreOptions
from ccvid.retrieval.embedding.part_file import Part
from ccvid.retrieval.embedding.part_folder import PartFolder
from ccvid.retrieval.embedding.store import EmbeddingStore
from ccvid.retrieval.embedding.table import EmbeddingRows, EmbeddingTable, check_distinct
from ccvid.retrieval.ranking.distances import CosineDistances, Distances, Indices
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.scoring import ScoredRetrieval, score
from data_tools.errors import InputError
from ray_jobs.scoring import part_tasks
from ray_jobs.scoring.gallery_search import LARGE_TABLE
from ray_jobs.scoring.part_tasks import PartRunner, here, on_cluster, opened_parts
from ray_jobs.scoring.stored_distances import PartEntries, StoredDistances

TABLE_ROWS = 2**16
"""Embeddings that are read at a time."""


@dataclass(frozen=True, slots=True)
class StoredRetrieval:
    """The labelled queries of a store, and the rows of its labelled gallery, in the order of the distances' indices."""

    distances: StoredDistances
    query: EmbeddingTable
    gallery: EmbeddingRows

    @property
    def is_large(self) -> bool:
        """Whether comparing takes more than seconds here."""
        return math.prod(self.distances.shape) >= part_tasks.PAIRS_WORTH_SHARING

    def scored(self, options: ScoreOptions) -> ScoredRetrieval:
        """Scores, as ``score_embeddings`` of both sides gives them; large ones by the cluster, which must be joined.

        Raises:
            InputError: as ``score``.
        """
        labels = RetrievalLabels.from_rows(self.query.rows), RetrievalLabels.from_rows(self.gallery)
        return score(self._fitting(), *labels, options)

    def _fitting(self) -> Distances:
        """The distances of a small gallery in memory; of a large one as they are.

        A GPU of this machine is used here, because other nodes may have none.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.is_large:
            return replace(self.distances, device=device, run=here if device == "cuda" else on_cluster)
        gallery_GD = np.concatenate([table.embedding_ND for table in self.gallery_tables()])
        return CosineDistances(self.query.embedding_ND, gallery_GD, device=device)

    def gallery_tables(self) -> Iterator[EmbeddingTable]:
        """The gallery in its order, some rows at a time; all parts are mapped meanwhile.

        Raises:
            InputError: a part is gone.
        """
        places = [part for group in self.distances.groups for part in group]
        with opened_parts(self.distances.parts, [part.part for part in places], "reading") as parts:
            for start in range(0, len(self.gallery), TABLE_ROWS):
                rows = self.gallery[start : start + TABLE_ROWS]
                embedding_ND = np.empty((len(rows), self.query.embedding_ND.shape[1]), np.float32)
                for own, part in zip(places, parts, strict=True):
                    chosen = slice(*np.searchsorted(own.entry_N, (start, start + len(rows))))
                    embedding_ND[own.entry_N[chosen] - start] = part.embedding_ND[own.row_N[chosen]]
                yield EmbeddingTable(rows, embedding_ND, self.query.model)


@dataclass(frozen=True, slots=True)
class _Labelled:
    """What is labelled in a part: the queries, and the gallery's labels and row numbers."""

    part: str
    query: EmbeddingTable
    gallery: EmbeddingRows
    row_N: Indices


def read_retrieval(
    store: EmbeddingStore,
    *,
    order: tuple[pa.ChunkedArray, pa.ChunkedArray] | None = None,
    run: PartRunner = here,
) -> StoredRetrieval:
    """The retrieval of the tracklets of split query and split gallery with a known person.

    Args:
        order: ids of queries and of gallery entries; others are left out. Default: all, by id.
        run: runs what looks at the parts.

    Raises:
        InputError: there are no such queries or entries, an id is in two parts, or a part is damaged.
    """
    groups = store.parts.groups()
    found = run(_read_groups, groups, (store.parts,), add, "reading labels")
    if not found:
        raise InputError(f"{store.folder}: the embedding store is empty")
    try:
        query = EmbeddingTable.joined([part.query for part in found])
        gallery = EmbeddingRows(pa.concat_tables([part.gallery.columns for part in found]))
        query_ids, gallery_ids = order or (None, None)
        query, place_G = query.take(_in_order(query.rows, query_ids)), _in_order(gallery, gallery_ids)
    except InputError as error:
        raise InputError(f"{store.folder}: {error}") from None
    if not len(query.rows) or not len(place_G):
        raise InputError(
            f"{store.folder}: {len(query.rows)} tracklets of split query and {len(place_G)} of split gallery with a "
            "person label; expected some of both"
        )
    distances = StoredDistances(store.parts, query.embedding_ND, _entries(groups, found, place_G), len(place_G), run)
    return StoredRetrieval(distances, query, gallery.take(place_G))


def _read_groups(groups: Sequence[Sequence[str]], parts: PartFolder) -> tuple[int, list[_Labelled]]:
    """The number of tracklets, and what is labelled; the gallery's embeddings are checked and left where they are."""
    found, tracklets = [], 0
    for names in groups:
        with opened_parts(parts, names, "reading") as opened:
            found += [_labelled(name, part) for name, part in zip(names, opened, strict=True)]
            tracklets += sum(map(len, opened))
    return tracklets, found


def _labelled(name: str, part: Part) -> _Labelled:
    CosineDistances(part.embedding_ND[:0], part.embedding_ND, origin=str(part.path))  # raises for what has no direction
    is_known = part.rows.is_known("person")
    query_N, gallery_N = (
        np.flatnonzero(is_known & part.rows.is_in("split", [split])) for split in ("query", "gallery")
    )
    return _Labelled(name, part.table.take(query_N), part.rows.take(gallery_N), gallery_N)


def _in_order(rows: EmbeddingRows, ids: pa.ChunkedArray | None) -> Indices:
    """The numbers of the rows with these ids, in their order, or of all rows, by id.

    Raises:
        InputError: two rows have the same id.
    """
    own = rows.columns["id"]
    by_id = pc.sort_indices(own)
    check_distinct(rows.take(by_id))
    found = by_id if ids is None else pc.index_in(ids, value_set=own).drop_null()
    return np.asarray(found).astype(np.int64)


def _entries(groups: Sequence[Sequence[str]], found: Sequence[_Labelled], place_G: Indices) -> list[list[PartEntries]]:
    """Where the gallery is: ``place_G`` are its rows, counted through all that was found."""
    counts = [len(part.row_N) for part in found]
    index_C = np.full(sum(counts), -1)
    index_C[place_G] = np.arange(len(place_G))
    shares = np.split(np.arange(len(index_C)), np.cumsum(counts)[:-1])
    entries = {
        part.part: PartEntries(part.part, part.row_N, own_C).taken(index_C)
        for part, own_C in zip(found, shares, strict=True)
    }
    chosen = [[entries[name] for name in names if len(entries[name].entry_N)] for names in groups]
    return [piece for group in chosen for piece in _pieces(group)]


def _pieces(group: Sequence[PartEntries]) -> list[list[PartEntries]]:
    """Each large part by itself, which is then not copied, and the small ones together."""
    small = [part for part in group if len(part.entry_N) < LARGE_TABLE]
    large = [[part] for part in group if len(part.entry_N) >= LARGE_TABLE]
    return [*large, small] if small else large
