"""Distances to a gallery that lies in the parts of a store: what looks at all of them goes to the parts.

No process holds more of the gallery than a group of parts. The order of the gallery, by which ties are broken, is that
of the indices given to its entries, whichever parts hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TypeVar

import numpy as np
import torch

from ccvid.retrieval.embedding.part_file import Part
from ccvid.retrieval.embedding.part_folder import PartFolder
from ccvid.retrieval.gallery.adaptation import GalleryChange
from ccvid.retrieval.gallery.slices import IN_THREADS, SliceRunner
from ccvid.retrieval.gallery.vectors import StoredVectors
from ccvid.retrieval.ranking.distances import CosineDistances, Floats, GalleryPart, Indices
from ccvid.retrieval.ranking.ranks import distances_of_pairs
from ray_jobs.scoring.part_tasks import PartRunner, here, opened_parts
from ray_jobs.scoring.slice_tasks import ClusterSlices

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class PartEntries:
    """The gallery entries in a stored part: their rows in it and their gallery indices, ascending, both (N,) int64."""

    part: str
    row_N: Indices
    entry_N: Indices

    def taken(self, index_G: Indices) -> PartEntries:
        """Those with an index in ``index_G``, (G,), which has −1 for the others; they get that index."""
        entry_N = index_G[self.entry_N]
        order = np.argsort(entry_N, kind="stable")[np.count_nonzero(entry_N < 0) :]
        return PartEntries(self.part, self.row_N[order], entry_N[order])


@dataclass(frozen=True, slots=True)
class _Group:
    """What a task needs to know of the distances."""

    parts: PartFolder
    query_QD: Floats
    device: str
    change: GalleryChange | None
    number_G: Indices | None

    def changed(self, entry_N: Indices, gallery_ND: Floats) -> Floats:
        if self.change is None:
            return gallery_ND
        return self.change(entry_N if self.number_G is None else self.number_G[entry_N], gallery_ND)


@dataclass(frozen=True, slots=True)
class StoredDistances:
    """1 − cosine of query embeddings (Q, D) and the embeddings of G gallery entries in stored parts, as ``Distances``.

    Args:
        groups: parts that are worked on together, see ``PartFolder.groups``. Their embeddings have been checked.
        entries: G.
        run: runs what looks at the parts.
        device: where products are computed.
    """

    parts: PartFolder
    query_QD: Floats
    groups: Sequence[Sequence[PartEntries]]
    entries: int
    run: PartRunner = here
    device: str = "cpu"
    change: GalleryChange | None = None
    """What becomes of the gallery before it is compared."""
    number_G: Indices | None = None
    """The numbers that ``change`` knows the entries by. Default: their gallery indices."""

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.query_QD), self.entries

    @property
    def vectors(self) -> StoredVectors:
        """The gallery's stored embeddings, in its order."""
        own = [part for group in self.groups for part in group]
        matrix_G, place_G = np.empty((2, self.entries), np.int32)
        for number, part in enumerate(own):
            matrix_G[part.entry_N], place_G[part.entry_N] = number, part.row_N
        return StoredVectors(self.parts, tuple(part.part for part in own), matrix_G, place_G)

    @property
    def slices(self) -> SliceRunner:
        """Runs slices where the parts are looked at."""
        return IN_THREADS if self.run is here else ClusterSlices()

    def changed(self, query_QD: Floats, change: GalleryChange | None) -> StoredDistances:
        """Those of other queries, and to what becomes of the gallery."""
        return replace(self, query_QD=query_QD.astype(np.float32, copy=False), change=change)

    def pairs(self, query_P: Indices, gallery_P: Indices) -> Floats:
        return distances_of_pairs(self, query_P, gallery_P)

    def fold(self, work: Callable[[GalleryPart], Result], merge: Callable[[Result, Result], Result]) -> Result:
        common = _Group(self.parts, self.query_QD, self.device, self.change, self.number_G), work, merge
        found: Result = self.run(_fold_groups, self.groups or [[]], common, merge, "comparing")
        return found

    def take(self, query_rows: Indices, gallery_rows: Indices) -> StoredDistances:
        taken = replace(self, query_QD=self.query_QD[query_rows], entries=len(gallery_rows))
        if np.array_equal(gallery_rows, np.arange(self.entries)):
            return taken
        if self.change is not None:
            numbers = np.arange(self.entries) if self.number_G is None else self.number_G
            taken = replace(taken, number_G=numbers[gallery_rows])
        index_G = np.full(self.entries, -1)
        index_G[gallery_rows] = np.arange(len(gallery_rows))
        groups = [[part for own in group if len((part := own.taken(index_G)).entry_N)] for group in self.groups]
        return replace(taken, groups=[group for group in groups if group])


def _fold_groups(
    groups: Sequence[Sequence[PartEntries]],
    common: _Group,
    work: Callable[[GalleryPart], Result],
    merge: Callable[[Result, Result], Result],
) -> tuple[int, Result]:
    """The number of entries, and what ``work`` makes of them: one group after another, no more than one is held."""
    entries = sum(len(part.entry_N) for group in groups for part in group)
    return entries, reduce(merge, (_of_group(group, common, work) for group in groups))


def _of_group(group: Sequence[PartEntries], common: _Group, work: Callable[[GalleryPart], Result]) -> Result:
    with opened_parts(common.parts, [own.part for own in group], "comparing") as parts:
        entry_N, gallery_ND = _joined(group, parts, common.query_QD.shape[1])
        distances = CosineDistances(
            common.query_QD,
            common.changed(entry_N, gallery_ND),
            device=torch.device(common.device),
            gallery_checked=True,
        )
        return work(GalleryPart(distances, entry_N))


def _joined(group: Sequence[PartEntries], parts: Sequence[Part], dimensions: int) -> tuple[Indices, Floats]:
    """All entries of a group by gallery index, and their embeddings; of one whole part, a view of its file."""
    if len(group) == 1 and np.array_equal(group[0].row_N, np.arange(len(parts[0]))):
        return group[0].entry_N, parts[0].embedding_ND
    entry_N = np.concatenate([np.empty(0, np.int64), *(own.entry_N for own in group)])
    order = np.argsort(entry_N)
    place_N = np.empty_like(order)
    place_N[order] = np.arange(len(order))
    gallery_ND, start = np.empty((len(order), dimensions), np.float32), 0
    for own, part in zip(group, parts, strict=True):
        gallery_ND[place_N[start : start + len(own.row_N)]] = part.embedding_ND[own.row_N]
        start += len(own.row_N)
    return entry_N[order], gallery_ND
