"""A driver that searches a stored gallery in Ray tasks: `python -m tests.jobs.searching_driver FOLDER`.

Each task notes its process in FOLDER/tasks and takes a moment. Prints whether the result equals that of one search.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ccvid.retrieval.embedding import part_folder
from ccvid.retrieval.embedding.store import EmbedderDescription, open_store
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.gallery.part_search import search_part
from data_tools.clips import ClipOptions
from data_tools.storage import StorageFolder
from ray_jobs.cluster.connection import connect
from ray_jobs.scoring import gallery_search, part_tasks
from ray_jobs.scoring.entries import EntryFilter
from ray_jobs.scoring.gallery_search import GallerySearch, PartsFound, search_gallery, search_parts

EMBEDDER = EmbedderDescription(
    model="a", dimensions=4, height=32, width=16, clip=ClipOptions(), resize_filter="bicubic", flip=False, bf16=False
)
PARTS, ROWS, QUERIES, TOP = 24, 50, 40, 15


def main(folder: Path) -> None:
    """A gallery with many equal scores."""
    connect()
    part_folder.LARGE_BYTES = 1  # a task for each part
    part_tasks.PAIRS_WORTH_SHARING, part_tasks.TASKS_PER_CPU = 0, PARTS

    def slow(groups: Sequence[Sequence[str]], asked: GallerySearch) -> tuple[int, PartsFound]:
        (folder / "tasks" / f"{os.getpid()}-{groups[0][0]}").touch()
        time.sleep(0.5)
        return search_parts(groups, asked)

    gallery_search.search_parts = slow  # sent to the workers by value
    (folder / "tasks").mkdir()
    store, random = open_store(StorageFolder(str(folder / "gallery")), EMBEDDER), np.random.default_rng(0)
    for part in range(PARTS):
        rows = EmbeddingRows.of(
            EmbeddingRow(f"{number}-{part}", None, None, f"c{number % 3}", "gallery", {}, 1, "s")
            for number in range(ROWS)
        )
        values = random.integers(-2, 3, (ROWS, 4)).astype(np.float32) + np.float32(0.1)
        store.add(EmbeddingTable(rows, values, EMBEDDER.fingerprint))
    gallery = store.read()
    queries = gallery.take(np.sort(random.permutation(len(gallery.rows))[:QUERIES]))
    own = search_part(queries, gallery, TOP, exclude=("id", "camera"))
    found = search_gallery(GallerySearch(store, queries, EntryFilter(), TOP, ("id", "camera")))
    same = [
        found.ranked == PARTS * ROWS,
        found.found.rows == own.rows,
        np.array_equal(found.found.nearest.gallery_QK, own.nearest.gallery_QK),
        np.array_equal(found.found.nearest.score_QK, own.nearest.score_QK),
    ]
    print("FOUND", same, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
