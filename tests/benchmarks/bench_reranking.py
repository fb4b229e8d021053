"""k-reciprocal re-ranking of a large gallery: seconds, memory, and what it brings on made features.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_reranking [--queries 1000] [--gallery 99000] [--dimensions 512]

Forty gallery tracklets a person, features around a centre for each person. The plain side is the same scoring of the
cosine distances.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time

import numpy as np
import torch

from ccvid.retrieval.gallery.reranking import re_rank
from ccvid.retrieval.ranking.distances import CosineDistances, Distances
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from tests.benchmarks.bench_retrieval import as_labels, problem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--gallery", type=int, default=99_000)
    parser.add_argument("--dimensions", type=int, default=512)
    options = parser.parse_args()
    codes = problem(options.queries, options.gallery)
    random = np.random.default_rng(2)
    centre = random.standard_normal((options.gallery // 40, options.dimensions), np.float32)
    query_QD, gallery_GD = (
        centre[side["person"]] + 2.5 * random.standard_normal((len(side["person"]), options.dimensions), np.float32)
        for side in codes
    )
    labels = [as_labels(side, prefix) for side, prefix in zip(codes, "qg", strict=True)]
    started = time.perf_counter()
    plain, before = scored(CosineDistances(query_QD, gallery_GD), labels)
    made = time.perf_counter()
    distances = re_rank(query_QD, gallery_GD)
    processing = time.perf_counter() - made
    seconds, after = scored(distances, labels)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{platform.machine()}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    print(f"{options.queries:,} queries, {options.gallery:,} gallery tracklets, {options.dimensions} dimensions\n")
    print("| what | seconds | mAP |\n|---|---|---|")
    print(f"| plain scoring | {plain:.1f} | {100 * before:.1f} |")
    print(f"| neighbours and weights | {processing:.1f} | |")
    print(f"| re-ranked scoring | {seconds:.1f} | {100 * after:.1f} |")
    print(f"\nmost memory: {memory:.2f} GB; all of it took {time.perf_counter() - started:.0f} s")


def scored(distances: Distances, labels: list[RetrievalLabels]) -> tuple[float, float]:
    """Seconds, and general mAP."""
    started = time.perf_counter()
    found = evaluate(distances, labels[0], labels[1], protocols=[PROTOCOLS["general"]])
    return time.perf_counter() - started, found.results["general"].mean_average_precision


if __name__ == "__main__":
    main()
