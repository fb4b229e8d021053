"""Frames of stored tracklets for pages and pictures, if their shards still exist."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows
from ccvid.retrieval.report.film_strip import Picture, Thumbnails
from ccvid.retrieval.report.mosaic import HeadHiding
from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.shard_cache import CacheOptions, open_shards
from data_tools.shards import ShardFolder
from data_tools.stored_frames import decode_frames_

Numbers = npt.NDArray[np.int32]
Place = tuple[ShardFolder, int] | None
"""Shards and row of a tracklet; None if it is no longer stored."""


@dataclass(frozen=True, slots=True)
class StoredPictures:
    """The pictures of tracklets in some shards, with heads hidden where ``hiding`` says so."""

    stores: Sequence[ShardFolder]
    hiding: HeadHiding

    def of(self, rows: Sequence[EmbeddingRow]) -> Thumbnails:
        """Of tracklets, by their index in ``rows``."""
        return stored_thumbnails(find_tracklets(rows, self.stores), self.hiding)


def open_sources(places: Collection[str], cache: CacheOptions) -> list[ShardFolder]:
    """Open the shards at ``places``; prints a message for those that cannot be opened."""
    stores = []
    for place in sorted(places):
        try:
            stores.append(open_shards(place, cache))
        except (ValueError, OSError) as error:  # ValueError: a location of an unknown kind
            message(f"no pictures from {place}: {error}")
    return stores


class _Places(Sequence[Place]):
    """Places of N tracklets, as the numbers of their shards and rows in these, both (N,); −1 where there is none."""

    def __init__(self, stores: Sequence[ShardFolder], store_N: Numbers, row_N: Numbers) -> None:
        self._stores, self._store_N, self._row_N = stores, store_N, row_N

    def __len__(self) -> int:
        return len(self._row_N)

    @overload
    def __getitem__(self, index: int) -> Place: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Place]: ...
    def __getitem__(self, index: int | slice) -> Place | Sequence[Place]:
        if isinstance(index, slice):
            return _Places(self._stores, self._store_N[index], self._row_N[index])
        store = int(self._store_N[index])
        return None if store < 0 else (self._stores[store], int(self._row_N[index]))


def find_tracklets(rows: Sequence[EmbeddingRow], stores: Sequence[ShardFolder]) -> Sequence[Place]:
    """Where each tracklet's frames are stored: same id, same shard."""
    rows = rows if isinstance(rows, EmbeddingRows) else EmbeddingRows.of(rows)
    store_N, row_N = np.full((2, len(rows)), -1, np.int32)
    ids, shards = rows.columns["id"], rows.text("shard")
    for number, store in enumerate(stores):
        found = pc.index_in(ids, value_set=store.rows.columns["id"])
        own_N = np.flatnonzero(np.asarray(found.is_valid()))
        stored_M = np.asarray(found.drop_null()).astype(np.int64)
        is_same = pc.equal(shards.take(own_N), store.fingerprints(store.rows.take(stored_M)).cast(pa.string()))
        is_same_M = np.asarray(is_same)
        store_N[own_N[is_same_M]], row_N[own_N[is_same_M]] = number, stored_M[is_same_M]
    return _Places(stores, store_N, row_N)


def stored_thumbnails(places: Sequence[Place], hiding: HeadHiding, *, frames: int = 3) -> Thumbnails:
    """Some frames of each tracklet, evenly spaced in time.

    Args:
        places: the shards and row of each; without them, or if frames cannot be decoded, there is no picture.
        hiding: where heads are hidden, before anything else sees the frames.
        frames: how many.
    """

    def thumbnails(index: int) -> list[Picture]:
        if (place := places[index]) is None:
            return []
        store, row = place
        last = int(store.rows.frame_count_N[row]) - 1
        positions = sorted({round(last * part / (frames + 1)) for part in range(1, frames + 1)})
        frames_THWC = np.empty((len(positions), *hiding.frame_size, 3), np.uint8)
        try:
            decode_frames_(frames_THWC, store, row, positions, reduced=True)
        except InputError:
            return []
        if hiding.applies_to(store):
            hiding.hide_(frames_THWC)
        return list(frames_THWC)

    return thumbnails
