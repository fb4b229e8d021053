"""Frames of stored tracklets for pages and pictures, if their shards still exist."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ccvid.retrieval.embedding.table import EmbeddingRow
from ccvid.retrieval.report.film_strip import HEIGHT, Picture, Thumbnails
from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.shard_cache import CacheOptions, open_shards
from data_tools.shards import ShardFolder
from data_tools.stored_frames import decode_frames_

THUMBNAIL_SIZE = (HEIGHT, HEIGHT // 2)

Place = tuple[ShardFolder, int] | None
"""Shards and row of a tracklet; None if it is no longer stored."""


def open_sources(places: Collection[str], cache: CacheOptions) -> list[ShardFolder]:
    """Open the shards at ``places``; prints a message for those that cannot be opened."""
    stores = []
    for place in sorted(places):
        try:
            stores.append(open_shards(place, cache))
        except (ValueError, OSError) as error:  # ValueError: a location of an unknown kind
            message(f"no pictures from {place}: {error}")
    return stores


def find_tracklets(rows: Sequence[EmbeddingRow], stores: Sequence[ShardFolder]) -> list[Place]:
    """Where each tracklet's frames are stored: same id, same shard."""
    wanted = {row.id for row in rows}
    found = {
        (store.rows[number].id, store.fingerprint(number)): (store, number)
        for store in stores
        for number in np.flatnonzero(store.rows.is_in("id", wanted)).tolist()
    }
    return [found.get((row.id, row.shard)) for row in rows]


def stored_thumbnails(places: Sequence[Place], *, frames: int = 3) -> Thumbnails:
    """Some frames of each tracklet, evenly spaced in time.

    ``places`` has the shards and row of each; without them, or if frames cannot be decoded, there is no picture.
    """

    def thumbnails(index: int) -> list[Picture]:
        if (place := places[index]) is None:
            return []
        store, row = place
        last = store.rows[row].frame_count - 1
        positions = sorted({round(last * part / (frames + 1)) for part in range(1, frames + 1)})
        frames_THWC = np.empty((len(positions), *THUMBNAIL_SIZE, 3), np.uint8)
        try:
            decode_frames_(frames_THWC, store, row, positions, reduced=True)
        except InputError:
            return []
        return list(frames_THWC)

    return thumbnails
