"""k-reciprocal re-ranking and groups of large sets of tracklets: seconds, memory, and what they bring on made features.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_reranking [--tracklets 50000 100000] [--queries 1000]
        [--dimensions 256] [--exact] [--only groups]

Twenty tracklets a person, around a centre for each; the coordinates of both vary less and less, as those of a trained
network do. The plain side is the same scoring of the cosine distances. Each size is measured in a process of its own.

Neighbours come from an index at every size, in two parts, because a million tracklets have two (``PART_ROWS``), so the
last two sizes tell how the time grows. What they give for a million by that growth is printed, marked as extrapolated.
With ``--exact`` neighbours come from comparing all pairs.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import log
from multiprocessing import get_context
from typing import TypeVar

import numpy as np
import torch

from ccvid.retrieval.gallery import approximate_search
from ccvid.retrieval.gallery.clusters import Clusters, Presence, find_clusters, score_clusters
from ccvid.retrieval.gallery.reranking import re_rank
from ccvid.retrieval.ranking.distances import CosineDistances, Distances, Floats
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import PROTOCOLS

EACH, NOISE, PARTS, MILLION = 20, 1.0, 2, 1_000_000
Found = TypeVar("Found")


@dataclass(frozen=True)
class Measured:
    """One piece of work: wall and CPU seconds, the process's most memory so far in bytes, and its result in words."""

    what: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    result: str


def people(tracklets: int, dimensions: int) -> tuple[Floats, np.ndarray]:
    """Embeddings (N, D) in random order, and each one's person."""
    random = np.random.default_rng(2)
    person = random.permutation(np.arange(tracklets) // EACH)
    scale = (1 / np.sqrt(1 + np.arange(dimensions) / 16)).astype(np.float32)
    centre = random.standard_normal((person.max() + 1, dimensions), np.float32)
    embedding = random.standard_normal((tracklets, dimensions), np.float32)
    embedding *= NOISE
    for start in range(0, tracklets, 8192):
        embedding[start : start + 8192] += centre[person[start : start + 8192]]
    embedding *= scale
    return embedding, person


def timed(what: str, work: Callable[[], Found], result: Callable[[Found], str]) -> tuple[Found, Measured]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found, Measured(what, wall, cpu, peak, result(found))


def measure(tracklets: int, queries: int, dimensions: int, exact: bool, only: str | None) -> list[Measured]:
    approximate_search.PART_ROWS = -(-tracklets // PARTS)
    exact_rows = tracklets if exact else 0
    embedding_ND, person_N = people(tracklets, dimensions)
    labels = [as_labels(person_N[:queries], "q"), as_labels(person_N[queries:], "g")]
    sides = embedding_ND[:queries], embedding_ND[queries:]
    unknown = Presence(np.full(tracklets, -1), np.zeros(tracklets), np.zeros(tracklets))

    def told(found: Clusters) -> str:
        scores = score_clusters(found.group_N, [str(number) for number in person_N.tolist()])
        return f"B-cubed precision {scores.precision:.1%}, recall {scores.recall:.1%}"

    def re_ranked() -> list[Measured]:
        _, plain = timed("plain scoring", lambda: general_map(CosineDistances(*sides), labels), "mAP {:.1%}".format)
        distances, weights = timed("re-ranking: weights", lambda: re_rank(*sides, exact_rows=exact_rows), lambda _: "")
        _, scoring = timed("re-ranking: scoring", lambda: general_map(distances, labels), "mAP {:.1%}".format)
        return [plain, weights, scoring]

    def grouped() -> list[Measured]:
        return [timed("groups", lambda: find_clusters(embedding_ND, unknown, exact_rows=exact_rows), told)[1]]

    pieces = {"re-ranking": re_ranked, "groups": grouped}
    return [row for name, piece in pieces.items() if only in (None, name) for row in piece()]


def as_labels(person_N: np.ndarray, prefix: str) -> RetrievalLabels:
    ids = tuple(f"{prefix}{number}" for number in range(len(person_N)))
    return RetrievalLabels(ids, tuple(map(str, person_N.tolist())), (prefix,) * len(ids), (None,) * len(ids))


def general_map(distances: Distances, labels: list[RetrievalLabels]) -> float:
    found = evaluate(distances, labels[0], labels[1], protocols=[PROTOCOLS["general"]])
    return found.results["general"].mean_average_precision


def extrapolated(sizes: list[int], measured: list[list[Measured]], figure: Callable[[Measured], float]) -> list[float]:
    """The figure of each piece of work for a million tracklets, by its growth between the last two sizes."""
    ratio = log(MILLION / sizes[-1]) / log(sizes[-1] / sizes[-2])
    return [
        figure(last) * (figure(last) / figure(before)) ** ratio for before, last in zip(*measured[-2:], strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracklets", type=int, nargs="+", default=[50_000, 100_000])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--exact", action="store_true", help="compare all pairs")
    parser.add_argument("--only", choices=("re-ranking", "groups"))
    options = parser.parse_args()
    sizes, measured = sorted(options.tracklets), []
    for size in sizes:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            arguments = size, options.queries, options.dimensions, options.exact, options.only
            measured.append(process.submit(measure, *arguments).result())
    print(f"\n{platform.machine()}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    print(f"{options.dimensions} dimensions, {options.queries} queries when re-ranking\n")
    print("| tracklets | what | seconds | CPU seconds | memory so far, GB | |\n|---|---|---|---|---|---|")
    for size, rows in zip(sizes, measured, strict=True):
        for row in rows:
            memory = row.peak_bytes / 1e9
            print(
                f"| {size:,} | {row.what} | {row.seconds:.1f} | {row.cpu_seconds:.1f} | {memory:.2f} | {row.result} |"
            )
    if len(sizes) > 1 and not options.exact:
        figures = [
            extrapolated(sizes, measured, figure)
            for figure in (lambda row: row.seconds, lambda row: row.cpu_seconds, lambda row: row.peak_bytes / 1e9)
        ]
        for row, seconds, cpu, memory in zip(measured[-1], *figures, strict=True):
            print(f"| {MILLION:,}, EXTRAPOLATED | {row.what} | {seconds:.0f} | {cpu:.0f} | {memory:.1f} | |")


if __name__ == "__main__":
    main()
