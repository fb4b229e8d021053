"""Retrieval metrics of three protocols, one core: ours against per-query loops written the straightforward way.

    python -m tests.benchmarks.bench_retrieval [--queries 1000] [--gallery 40000] [--rounds 3]

The loops order the gallery of each query by argsort, remove the junk by set operations, and do so anew for every
protocol: general, same-clothes, clothes-changing. The target is a third of their time with given distances.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ccvid.retrieval.ranking.distances import CosineDistances, DistanceMatrix, Distances
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import PROTOCOLS

THREE = ("general", "same_clothes", "clothes_changing")
Codes = dict[str, npt.NDArray[np.int64]]


def per_query_loop(distance: npt.NDArray[np.floating], query: Codes, gallery: Codes, protocol: str) -> float:
    """mAP of one protocol, by argsort and set operations for each query."""
    precisions = []
    for row, values in enumerate(distance):
        order = np.argsort(values)
        same_person = np.flatnonzero(gallery["person"] == query["person"][row])
        same_camera = np.flatnonzero(gallery["camera"] == query["camera"][row])
        same_clothes = np.flatnonzero(gallery["clothes"] == query["clothes"][row])
        good = np.setdiff1d(same_person, same_camera, assume_unique=True)
        junk = np.intersect1d(same_person, same_camera, assume_unique=True)
        if protocol == "same_clothes":
            good = np.intersect1d(good, same_clothes, assume_unique=True)
            junk = np.union1d(junk, np.setdiff1d(same_person, same_clothes, assume_unique=True))
        elif protocol == "clothes_changing":
            good = np.setdiff1d(good, same_clothes, assume_unique=True)
            junk = np.union1d(junk, np.intersect1d(same_person, same_clothes, assume_unique=True))
        if good.size:
            kept = order[np.isin(order, junk, invert=True)]
            rank = np.flatnonzero(np.isin(kept, good)) + 1
            cmc = np.zeros(len(values))
            cmc[rank[0] - 1 :] = 1
            precisions.append(float(np.mean(np.arange(1, len(rank) + 1) / rank)))
    return statistics.fmean(precisions)


def problem(queries: int, gallery: int, seed: int = 0) -> tuple[Codes, Codes]:
    """Random labels: 40 gallery entries per person, four outfits each, eight cameras."""
    random = np.random.default_rng(seed)
    persons = max(1, gallery // 40)
    sets = []
    for size in (queries, gallery):
        person = random.integers(0, persons, size)
        clothes = person * 4 + random.integers(0, 4, size)
        sets.append({"person": person, "camera": random.integers(0, 8, size), "clothes": clothes})
    return sets[0], sets[1]


def as_labels(codes: Codes, prefix: str) -> RetrievalLabels:
    text = {name: tuple(map(str, column.tolist())) for name, column in codes.items()}
    ids = tuple(f"{prefix}{row}" for row in range(len(text["person"])))
    return RetrievalLabels(ids, text["person"], text["camera"], text["clothes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--gallery", type=int, default=40_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)

    query, gallery = problem(options.queries, options.gallery)
    query_labels, gallery_labels = as_labels(query, "q"), as_labels(gallery, "g")
    random = np.random.default_rng(1)
    query_QD = random.standard_normal((options.queries, options.dimensions), np.float32)
    gallery_GD = random.standard_normal((options.gallery, options.dimensions), np.float32)
    distance = random.random((options.queries, options.gallery))

    def ours(distances: Distances, top_k: int) -> list[float]:
        protocols = [PROTOCOLS[name] for name in THREE]
        evaluation = evaluate(distances, query_labels, gallery_labels, protocols=protocols, top_k=top_k)
        return [evaluation.results[name].mean_average_precision for name in THREE]

    contestants: dict[str, Callable[[], list[float]]] = {
        "per-query loops, distances given": lambda: [
            per_query_loop(distance, query, gallery, protocol) for protocol in THREE
        ],
        "ours, distances given": lambda: ours(DistanceMatrix(distance), 0),
        "ours, distances given, top 20 kept": lambda: ours(DistanceMatrix(distance), 20),
        f"ours, from {options.dimensions}-d embeddings": lambda: ours(CosineDistances(query_QD, gallery_GD), 0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    answers: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            answers[name] = contestant()
            seconds[name].append(time.perf_counter() - start)

    names = list(contestants)
    np.testing.assert_allclose(answers[names[1]], answers[names[0]], rtol=1e-12)
    baseline = statistics.median(seconds[names[0]])
    print(f"{machine()}, one thread; {options.queries} queries x {options.gallery} gallery, three protocols")
    print(f"{'median of ' + str(options.rounds) + ' rounds':42s} {'seconds':>8s} {'of the loops':>13s}  target")
    for name in names:
        median = statistics.median(seconds[name])
        target = "<= 0.333" if name == names[1] else ""
        print(f"{name:42s} {median:8.2f} {median / baseline:13.3f}  {target}")


def machine() -> str:
    """The processor's name and the versions that decide the speed."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor() or platform.machine()}, numpy {np.__version__}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
