"""Counting the ranks of a large retrieval on the whole cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray

from ccvid.retrieval.ranking.distances import CosineDistances, Distances, Indices
from ccvid.retrieval.ranking.nearest import NearestOthers
from ccvid.retrieval.ranking.ranks import PersonPairs, join_queries, rank_persons

PAIRS_WORTH_SHARING = 10**9
"""Pairs of queries and gallery entries; with fewer, one machine needs only seconds."""
PARTS_PER_CPU = 2


def cluster_ranks(
    distances: Distances, query_person: Indices, gallery_person: Indices, nearest: int
) -> tuple[PersonPairs, NearestOthers]:
    """``rank_persons`` as Ray tasks with one CPU, each for some of the queries; bit-identical to it.

    The distances (or both sides' embeddings) are in each node's object store once. A small retrieval is counted here,
    and so is one that uses a GPU of this machine, because other nodes may have none.
    """
    queries, entries = distances.shape
    on_gpu = isinstance(distances, CosineDistances) and distances.device.type == "cuda"
    if on_gpu or queries * entries < PAIRS_WORTH_SHARING:
        return rank_persons(distances, query_person, gallery_person, nearest)
    cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    shared = [ray.put(value) for value in (distances, query_person, gallery_person)]
    task: Any = ray.remote(num_cpus=1, max_retries=3)(_rank_some)
    parts = np.array_split(np.arange(queries), min(queries, PARTS_PER_CPU * cpus))
    return join_queries(ray.get([task.remote(*shared, nearest, rows) for rows in parts]))


def _rank_some(
    distances: Distances, query_person: Indices, gallery_person: Indices, nearest: int, rows: Indices
) -> tuple[PersonPairs, NearestOthers]:
    part = distances.take(rows, np.arange(distances.shape[1]))
    return rank_persons(part, query_person[rows], gallery_person, nearest)
