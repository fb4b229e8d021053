"""A driver that groups and re-ranks a stored gallery in Ray tasks.

    python -m tests.jobs.grouping_driver FOLDER [PLACE]

The gallery is in FOLDER or at PLACE, its copies in FOLDER/cache. Each task leaves a file in FOLDER/tasks. One writes
its process to FOLDER/waiting, and waits to be killed. Prints whether the results equal those of one process.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ccvid.retrieval.embedding.part_folder import PartFolder
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.gallery import own_neighbours, slices
from ccvid.retrieval.gallery.clusters import Presence, find_clusters
from ccvid.retrieval.gallery.reranking import reciprocal_neighbours
from ccvid.retrieval.gallery.slices import IN_THREADS, SliceRunner
from ccvid.retrieval.gallery.vectors import MatrixVectors, Vectors, read_stored
from data_tools.shard_cache import CacheOptions
from data_tools.storage import StorageFolder
from ray_jobs.cluster.connection import connect
from ray_jobs.scoring import slice_tasks
from ray_jobs.scoring.slice_tasks import ClusterSlices

PARTS, ROWS, DIMENSIONS = 3, 400, 8


def main(folder: Path, place: str) -> None:
    """A gallery with many equal scores, and indexes of its halves."""
    connect()
    plain = slice_tasks._rows_and_result

    def noted(rows: slice, work: Callable[[slice], Any]) -> tuple[int, Any]:
        (folder / "tasks" / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        if rows.start == 100 and not (waiting := folder / "waiting").exists():
            waiting.write_text(f"{os.getpid()}\n")
            time.sleep(600)
        return plain(rows, work)

    slice_tasks._rows_and_result = noted  # sent to the workers by value
    slices.MOST_ROWS, own_neighbours.INDEXED_ROWS = 100, ROWS // 2
    (folder / "tasks").mkdir()
    random = np.random.default_rng(0)
    values = random.integers(-2, 3, (ROWS, DIMENSIONS)).astype(np.float32) + np.float32(0.1)
    rows = EmbeddingRows.of(EmbeddingRow(f"{n:04}", None, None, "c", "gallery", {}, 1, "s") for n in range(ROWS))
    table = EmbeddingTable(rows, values, "m")
    parts = PartFolder(StorageFolder(place), "m", DIMENSIONS, CacheOptions(folder=folder / "cache"))
    for part in range(PARTS):
        parts.write(table.take(np.arange(part, ROWS, PARTS)))
    read, stored = read_stored(parts, ClusterSlices())
    own, found = everything(MatrixVectors(values), rows, IN_THREADS), everything(stored, rows, ClusterSlices())
    print("FOUND", [read == rows, *map(np.array_equal, own, found)], flush=True)


def everything(vectors: Vectors, rows: EmbeddingRows, run: SliceRunner) -> list[np.ndarray]:
    groups = find_clusters(vectors, Presence.of(rows), exact_rows=ROWS, run=run)
    weights = reciprocal_neighbours(vectors, exact_rows=0, run=run)
    matrix = weights.weight_NN
    return [groups.group_N, groups.medoid_M, matrix.data, matrix.indices, matrix.indptr, weights.largest_N]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[-1])
