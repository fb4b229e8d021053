"""Exact metrics of a large retrieval from embeddings: against a dense argsort and the bare float32 product; memory.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_metrics [--queries 10000] [--gallery 200000]

Three protocols, 40 gallery tracklets a person. The dense side takes float32 products of some queries with the gallery,
orders each row by argsort once, and reads all three protocols off that order; half of its queries run before ours,
half after. The product of half of the queries runs before ours, that of the others after. Ours runs in a process of its
own, whose peak memory is printed; ``--top-k 20`` keeps the first places too, as reports do.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import numpy.typing as npt
import torch

from ccvid.retrieval.ranking.distances import CosineDistances
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from data_tools.cpus import processor
from tests.benchmarks.bare import bare_product
from tests.benchmarks.bench_retrieval import THREE, Codes, as_labels, problem

TARGET, MOST_OF_PRODUCT, MOST_MEGABYTES = 5.0, 1.5, 2000


def features(queries: int, gallery: int, dimensions: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    random = np.random.default_rng(1)
    return tuple(random.standard_normal((size, dimensions), np.float32) for size in (queries, gallery))  # type: ignore[return-value]


def dense_seconds(
    query_QD: npt.NDArray[np.float32], gallery_GD: npt.NDArray[np.float32], query: Codes, gallery: Codes, rows: range
) -> tuple[float, list[float]]:
    """Seconds for some queries, and each protocol's mean average precision over them."""
    unit_GD = gallery_GD / np.linalg.norm(gallery_GD, axis=1, keepdims=True)
    started = time.perf_counter()
    unit_QD = query_QD[rows] / np.linalg.norm(query_QD[rows], axis=1, keepdims=True)
    distance_QG = 1 - unit_QD @ unit_GD.T
    precisions: dict[str, list[float]] = {name: [] for name in THREE}
    for number, row in enumerate(rows):
        order = np.argsort(distance_QG[number])
        person = gallery["person"][order] == query["person"][row]
        camera = gallery["camera"][order] == query["camera"][row]
        clothes = gallery["clothes"][order] == query["clothes"][row]
        good = person & ~camera
        matches = {"general": good, "same_clothes": good & clothes, "clothes_changing": good & ~clothes}
        for name, match in matches.items():
            if match.any():
                rank = np.flatnonzero(match[match | ~person]) + 1
                precisions[name].append(float(np.mean(np.arange(1, len(rank) + 1) / rank)))
    return time.perf_counter() - started, [statistics.fmean(precisions[name]) for name in THREE]


def ours(queries: int, gallery: int, dimensions: int, threads: int, top_k: int) -> None:
    """Print seconds, mAP of the three protocols and megabytes, for ``main``."""
    torch.set_num_threads(threads)
    query_QD, gallery_GD = features(queries, gallery, dimensions)
    labels = [as_labels(codes, prefix) for codes, prefix in zip(problem(queries, gallery), "qg", strict=True)]
    started = time.perf_counter()
    distances = CosineDistances(query_QD, gallery_GD)
    chosen = [PROTOCOLS[name] for name in THREE]
    results = evaluate(distances, labels[0], labels[1], protocols=chosen, top_k=top_k).results
    seconds = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(seconds, memory, *(results[name].mean_average_precision for name in THREE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--gallery", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--dense-queries", type=int, default=100)
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--ours", action="store_true", help="used by this command itself")
    options = parser.parse_args()
    size = options.queries, options.gallery, options.dimensions
    threads = int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads()))
    if options.ours:
        ours(*size, threads, options.top_k)
        return
    query, gallery = problem(*size[:2])
    query_QD, gallery_GD = features(*size)
    half, middle = options.dense_queries // 2, options.queries // 2
    before, _ = dense_seconds(query_QD, gallery_GD, query, gallery, range(half))
    product = bare_product(query_QD[:middle], gallery_GD)
    command = [sys.executable, "-m", "tests.benchmarks.bench_metrics", "--ours"]
    names = "--queries", "--gallery", "--dimensions", "--top-k"
    for name, value in zip(names, (*size, options.top_k), strict=True):
        command += [name, str(value)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    seconds, memory, *precisions = map(float, output)
    product += bare_product(query_QD[middle:], gallery_GD)
    after, _ = dense_seconds(query_QD, gallery_GD, query, gallery, range(half, 2 * half))
    dense, own = (before + after) / (2 * half), seconds / options.queries
    print(f"\n{processor()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"{options.queries:,} x {options.gallery:,} x {options.dimensions}, three protocols\n")
    print("| what | ms a query | of the dense side | target | |\n|---|---|---|---|---|")
    print(f"| dense argsort, {2 * half} queries | {1000 * dense:.2f} |")
    verdict = "met" if dense / own >= TARGET else "MISSED"
    print(f"| ours, {seconds:.0f} s in all | {1000 * own:.2f} | {dense / own:.1f} x faster | {TARGET} x | {verdict} |")
    verdict = "met" if seconds / product <= MOST_OF_PRODUCT else "MISSED"
    print(f"| bare float32 product, {product:.0f} s in all | {1000 * product / options.queries:.2f} |")
    print(f"| ours, of the product's time | | {seconds / product:.2f} x | {MOST_OF_PRODUCT} x | {verdict} |")
    verdict = "met" if memory < MOST_MEGABYTES else "MISSED"
    print(f"\nmost memory of ours: {memory:,.0f} MB, target {MOST_MEGABYTES:,} MB: {verdict}")
    print("mAP:", *(f"{name} {value:.5f}" for name, value in zip(THREE, precisions, strict=True)))


if __name__ == "__main__":
    main()
