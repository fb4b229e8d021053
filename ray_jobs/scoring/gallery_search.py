"""Searching a stored gallery of any size: its parts are searched by Ray tasks, and what they find is merged.

The result is that of one search of the whole, whatever the parts, tasks and nodes. No process holds more of the gallery
than one task's parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow.compute as pc

from ccvid.retrieval.embedding.part_file import Part
from ccvid.retrieval.embedding.store import EmbeddingStore
from ccvid.retrieval.embedding.table import EmbeddingTable
from ccvid.retrieval.gallery.approximate_search import IndexedPart, indexed_part, some_rows
from ccvid.retrieval.gallery.fused_search import FusedEvidence, search_fused_part
from ccvid.retrieval.gallery.part_search import FoundEntries, recall_of, search_indexed_part, search_part
from data_tools.errors import InputError
from data_tools.progress import message
from ray_jobs.scoring import part_tasks
from ray_jobs.scoring.entries import EntryFilter, NothingToRankError
from ray_jobs.scoring.part_tasks import here, on_cluster, opened_parts

LARGE_TABLE = 2**14
"""Rows of a part that is searched where it is."""


@dataclass(frozen=True, slots=True)
class GallerySearch:
    """What every task does with its parts."""

    store: EmbeddingStore
    queries: EmbeddingTable
    entries: EntryFilter
    top: int
    exclude: tuple[str, ...]
    """Columns; see ``search_part``."""
    approximate: bool = False
    fused: FusedEvidence | None = None
    """Rank by the evidence of several sources, not by cosine."""


@dataclass(frozen=True, slots=True)
class PartsFound:
    """The outcome of a task."""

    found: FoundEntries
    ranked: int = 0
    """Entries that passed the filter."""
    cameras: frozenset[str] = frozenset()
    """All cameras of the parts."""
    timed: bool = False
    """Whether a tracklet has a start time; looked for only where nothing passed a filter by time of day."""
    exact: FoundEntries | None = None
    """What an exact search finds for some queries, to measure the recall of an approximate one."""

    @classmethod
    def none(cls, asked: GallerySearch) -> PartsFound:
        """Of no parts."""
        checked = len(some_rows(len(asked.queries.rows)))
        return cls(
            FoundEntries.none(len(asked.queries.rows), asked.top),
            exact=FoundEntries.none(checked, asked.top) if asked.approximate else None,
        )

    def merged(self, other: PartsFound) -> PartsFound:
        return PartsFound(
            self.found.merged(other.found),
            self.ranked + other.ranked,
            self.cameras | other.cameras,
            self.timed or other.timed,
            other.exact if self.exact is None or other.exact is None else self.exact.merged(other.exact),
        )


def search_gallery(asked: GallerySearch) -> PartsFound:
    """Search all parts of the store; where that takes longer than seconds, on the cluster.

    Raises:
        NothingToRankError: there is nothing to rank, or a camera is unknown.
        InputError: a part is damaged.
        PartsChangedError: a part is gone because another command replaced it.
    """
    groups, sizes = asked.store.parts.groups(), asked.store.folder.sizes()
    vectors = sum(sizes.get(name, 0) for group in groups for name in group) // (4 * asked.store.embedder.dimensions)
    is_large = vectors * len(asked.queries.rows) >= part_tasks.PAIRS_WORTH_SHARING
    run = on_cluster if is_large else here
    try:
        result = run(search_parts, groups, (asked,), PartsFound.merged, "searching")
    except InputError as error:
        raise InputError(f"{asked.store.folder}: {error}") from None
    asked.entries.check_cameras(result.cameras)
    if not result.ranked and asked.entries.asks_time_of_day and not result.timed:
        raise NothingToRankError(
            f"{asked.store.folder}: no tracklet has a start_time; read the footage with --data.footage.start_times, "
            "or give --since and --until in seconds of the videos"
        )
    if not result.ranked:
        raise NothingToRankError(f"{asked.store.folder}: no tracklets to rank; all are queries, old, or filtered out")
    if result.exact is not None:
        share = recall_of(result.found, result.exact, some_rows(len(asked.queries.rows)))
        message(f"approximate search: recall of the first {asked.top} is {100 * share:.2f} %")
    return result


def search_parts(groups: Sequence[Sequence[str]], asked: GallerySearch) -> tuple[int, PartsFound]:
    """The entries ranked, and what was found in groups of parts: one after another, no more than one is held at a time.

    Raises:
        InputError: a part is damaged.
        PartsChangedError: a part is gone because another command replaced it.
    """
    result = PartsFound.none(asked)
    for names in groups:
        with opened_parts(asked.store.parts, names, "searching") as parts:
            result = _with_group(result, names, parts, asked)
    return result.ranked, result


def _with_group(before: PartsFound, names: Sequence[str], parts: Sequence[Part], asked: GallerySearch) -> PartsFound:
    """What was found before and in these parts."""
    tables = _to_search(
        [part.table.take(asked.entries.chosen(part.rows)) for part in parts if asked.entries.may_choose_of(part)]
    )
    ranked = sum(len(table.rows) for table in tables)
    found, exact = before.found, before.exact
    if exact is not None:
        some = asked.queries.take(some_rows(len(asked.queries.rows)))
        exact = _search_exactly(some, tables, asked, exact)
        for name, part in zip(names, parts, strict=True):
            found = found.merged(_by_index(name, part, asked))
    else:
        found = _search_exactly(asked.queries, tables, asked, found)
    return PartsFound(
        found,
        before.ranked + ranked,
        exact=exact,
        cameras=before.cameras.union(*(part.values("camera") for part in parts)),
        timed=before.timed or (not ranked and asked.entries.asks_time_of_day and any(map(_has_start_time, parts))),
    )


def _has_start_time(part: Part) -> bool:
    return bool(pc.any(pc.is_valid(part.rows.attribute("start_time"))).as_py())


def _to_search(tables: Sequence[EmbeddingTable]) -> list[EmbeddingTable]:
    """The tables; small ones are copied into one, because each search takes a moment."""
    large = [table for table in tables if len(table.rows) >= LARGE_TABLE]
    small = [table for table in tables if 0 < len(table.rows) < LARGE_TABLE]
    return [*large, EmbeddingTable.joined(small)] if small else large


def _search_exactly(
    queries: EmbeddingTable, tables: Sequence[EmbeddingTable], asked: GallerySearch, found: FoundEntries
) -> FoundEntries:
    """What was ``found`` before and in these tables."""
    search = search_part if asked.fused is None else partial(search_fused_part, fused=asked.fused)
    for table in tables:
        found = search(queries, table, asked.top, exclude=asked.exclude, found=found)
    return found


def _by_index(name: str, part: Part, asked: GallerySearch) -> FoundEntries:
    """What an approximate search finds in a part; exact where the part has no index."""
    if not asked.entries.may_choose_of(part):
        return FoundEntries.none(len(asked.queries.rows), asked.top)
    indexed, path = IndexedPart(part.embedding_ND), asked.store.parts.index_path(name)
    if path is not None:
        indexed = indexed_part(part.embedding_ND, path, asked.store.parts.model)
    chosen = asked.entries.chosen(part.rows)
    return search_indexed_part(asked.queries, indexed, part.rows, chosen, asked.top, exclude=asked.exclude)
