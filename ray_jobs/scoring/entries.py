"""Which tracklets of a gallery are queries, and which are ranked for them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from ccvid.retrieval.embedding.part_file import Part, keys_of
from ccvid.retrieval.embedding.store import EmbeddingStore
from ccvid.retrieval.embedding.table import EmbeddingRows, EmbeddingTable, shared_codes
from ccvid.retrieval.ranking.distances import CosineDistances, Indices, Scores
from data_tools.datasets.start_times import time_attribute
from data_tools.errors import InputError
from ray_jobs.scoring.time_limits import TimeLimit, ends_after, starts_before

RANDOM_PARTS, RANDOM_PAIRS = 16, 2**15
"""Of a gallery, to see what scores of two persons look like."""


class NothingToRankError(InputError):
    """A gallery has no queries, or nothing to rank for them."""


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Entries to rank: those that pass every limit that is set."""

    cameras: tuple[str, ...] = ()
    """Only these; () for all."""
    since: TimeLimit | None = None
    """Only tracklets that end at or after this: seconds of their video, or a time of day."""
    until: TimeLimit | None = None
    """Only tracklets that start at or before this."""
    ids: frozenset[str] | None = None
    """Only these."""
    without_queries: bool = True
    """Not those of split query."""

    @property
    def asks_time_of_day(self) -> bool:
        return any(isinstance(limit, datetime) for limit in (self.since, self.until))

    def may_choose_of(self, part: Part) -> bool:
        """False if no row of a part can pass; reads no rows."""
        if self.cameras and part.values("camera").isdisjoint(self.cameras):
            return False
        if self.without_queries and part.values("split") <= {"query"}:
            return False
        if isinstance(self.since, datetime) and part.last_end and part.last_end < time_attribute(self.since, 0):
            return False
        if isinstance(self.until, datetime) and part.first_start and part.first_start > time_attribute(self.until, 0):
            return False
        if self.ids is None:
            return True
        ids = sorted(self.ids)
        return bool(part.shards_of(ids, keys_of(ids)))

    def chosen(self, rows: EmbeddingRows) -> Indices:
        """The rows that pass, ascending."""
        chosen_N = np.ones(len(rows), np.bool_)
        if self.without_queries:
            chosen_N &= ~rows.is_in("split", ["query"])
        if self.cameras:
            chosen_N &= rows.is_in("camera", self.cameras)
        if self.since is not None:
            chosen_N &= ends_after(rows, self.since)
        if self.until is not None:
            chosen_N &= starts_before(rows, self.until)
        if self.ids is not None:
            chosen_N &= rows.is_in("id", self.ids)
        return np.flatnonzero(chosen_N)

    def check_cameras(self, known: Collection[str]) -> None:
        """Raise NothingToRankError for a camera that the gallery does not have."""
        if unknown := sorted(set(self.cameras) - set(known)):
            some = ", ".join(sorted(known)[:20])
            raise NothingToRankError(f"--camera {', '.join(unknown)}: no such camera; the gallery has {some}")


def queries_in(store: EmbeddingStore) -> EmbeddingTable:
    """A gallery's own queries, by id; NothingToRankError if it has none."""
    tables = [
        part.table.take(np.flatnonzero(part.rows.is_in("split", ["query"])))
        for _, part in store.parts.each()
        if "query" in part.values("split")
    ]
    if not any(len(table.rows) for table in tables):
        raise NothingToRankError(
            f"{store.folder}: no tracklets with split query; set it in the labels, or give a gallery of queries with "
            "--queries"
        )
    return EmbeddingTable.joined(tables)


def random_scores(queries: EmbeddingTable, store: EmbeddingStore, *, seed: int = 0) -> Scores:
    """Scores of about ``RANDOM_PAIRS`` random pairs of a query and another tracklet of some parts of the gallery."""
    chance, names = np.random.Generator(np.random.PCG64(seed)), store.parts.names()
    scores: list[Scores] = []
    for name in chance.permutation(names)[:RANDOM_PARTS].tolist():
        with store.parts.opened([name]) as (part,):
            query_P = chance.integers(0, len(queries.rows), RANDOM_PAIRS // RANDOM_PARTS)
            entry_P = np.sort(chance.integers(0, len(part.rows), len(query_P)))
            distances = CosineDistances(queries.embedding_ND, part.embedding_ND, gallery_checked=True)
            query_code, entry_code = shared_codes(queries.rows.text("id"), part.rows.text("id"))
            other_P = query_code[query_P] != entry_code[entry_P]
            scores.append(1.0 - distances.pairs(query_P[other_P], entry_P[other_P]).astype(np.float64))
    return np.concatenate([np.zeros(0), *scores])
