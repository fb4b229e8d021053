"""A driver that counts ranks in Ray tasks: `python -m tests.jobs.ranking_driver`. Prints whether they equal its own."""

from __future__ import annotations

import json

import numpy as np

from ccvid.retrieval.ranking.distances import CosineDistances, DistanceMatrix, Distances
from ccvid.retrieval.ranking.ranks import rank_persons
from ray_jobs.cluster.connection import connect
from ray_jobs.scoring import parallel_ranks


def main() -> None:
    """Random embeddings with many ties, and a matrix of their distances."""
    connect()
    parallel_ranks.PAIRS_WORTH_SHARING = 0
    random = np.random.default_rng(0)
    query, gallery = (random.integers(-2, 3, (size, 4)).astype(np.float32) + 0.1 for size in (37, 5000))
    cosine = CosineDistances(query, gallery)
    persons = random.integers(0, 99, 37), random.integers(0, 99, 5000)
    asked: dict[str, Distances] = {"embeddings": cosine, "matrix": DistanceMatrix(np.rint(query @ gallery.T))}
    for name, distances in asked.items():
        found = parallel_ranks.cluster_ranks(distances, *persons, 5)
        own = rank_persons(distances, *persons, 5)
        pairs = [
            np.array_equal(getattr(found[side], column), getattr(own[side], column))
            for side in (0, 1)
            for column in own[side].__slots__
        ]
        print("FOUND", json.dumps({name: pairs}), flush=True)


if __name__ == "__main__":
    main()
