"""A driver that scores a stored gallery in Ray tasks: `python -m tests.jobs.scoring_driver FOLDER`.

In the first two passes over the gallery, each task notes its process in FOLDER/tasks and takes a moment. Prints whether
ranks, metrics and thresholds equal those of one process.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ccvid.config import ScoreOptions
from ccvid.retrieval.embedding import part_folder
from ccvid.retrieval.embedding.store import open_store
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.ranking.distances import CosineDistances, Distances, GalleryPart
from ccvid.retrieval.ranking.labels import RetrievalLabels, joint_codes
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from ccvid.retrieval.ranking.ranks import rank_persons
from ccvid.retrieval.ranking.scoring import score
from ccvid.retrieval.thresholds.find import find_thresholds
from data_tools.storage import StorageFolder
from data_tools.tracklet import Split
from ray_jobs.cluster.connection import connect
from ray_jobs.scoring import part_tasks, stored_distances
from ray_jobs.scoring.part_tasks import on_cluster
from ray_jobs.scoring.stored_distances import PartEntries
from ray_jobs.scoring.stored_retrieval import read_retrieval
from tests.jobs.searching_driver import EMBEDDER, PARTS

ROWS = 50
SPLITS: tuple[Split, ...] = ("query", "gallery", "gallery", "gallery", "gallery")


def main(folder: Path) -> None:
    """A gallery with many equal scores."""
    connect()
    part_folder.LARGE_BYTES, part_tasks.TASKS_PER_CPU = 1, PARTS  # a task for each part
    quick = stored_distances._fold_groups

    def slow(
        groups: Sequence[Sequence[PartEntries]], common: Any, work: Callable[[GalleryPart], Any], merge: Any
    ) -> tuple[int, Any]:
        (folder / "tasks" / f"{os.getpid()}-{str(work).split()[1]}-{groups[0][0].part}").touch()
        time.sleep(0.3)
        return quick(groups, common, work, merge)

    (folder / "tasks").mkdir()
    store, random = open_store(StorageFolder(str(folder / "gallery")), EMBEDDER), np.random.default_rng(0)
    for part in range(PARTS):
        rows = EmbeddingRows.of(
            EmbeddingRow(f"{number}-{part}", f"p{random.integers(50)}", None, f"c{number % 3}", split, {}, 1, "s")
            for number, split in enumerate(SPLITS * (ROWS // len(SPLITS)))
        )
        values = random.integers(-2, 3, (ROWS, 4)).astype(np.float32) + np.float32(0.1)
        store.add(EmbeddingTable(rows, values, EMBEDDER.fingerprint))
    table = store.read()
    sides = table.part("query"), table.part("gallery")
    labels = [RetrievalLabels.from_rows(side.rows) for side in sides]
    persons = joint_codes(labels[0].person, labels[1].person)
    own, found = CosineDistances(*(side.embedding_ND for side in sides)), read_retrieval(store, run=on_cluster)
    stored_distances._fold_groups = slow  # sent to the workers by value
    ranked = [rank_persons(distances, *persons, 5) for distances in (own, found.distances)]
    stored_distances._fold_groups, part_tasks.TASKS_PER_CPU = quick, 4
    same = [
        np.array_equal(getattr(ranked[0][side], column), getattr(ranked[1][side], column))
        for side in (0, 1)
        for column in ranked[0][side].__slots__
    ]

    def told(distances: Distances) -> list[object]:
        options = ScoreOptions(single_shot_draws=2)
        protocol = PROTOCOLS["general"]
        thresholds = find_thresholds(distances, labels[0], labels[1], protocol, options.threshold, model="m")
        return [score(distances, labels[0], labels[1], options).to_json(), thresholds.to_json()]

    print("FOUND", [all(same), *(one == other for one, other in zip(told(own), told(found.distances), strict=True))])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
