"""Exact top-20 search of random features, and its speed as a share of the bare float32 product's.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_search [--queries 10000] [--gallery 1000000] [--rounds 1]

The gallery is a memory map on disk. The product of half of the queries runs before each search, that of the others
after it; memory is that of this process. On a GPU, `bench_gpu` measures it. Needs neither Ray nor a decoder.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ccvid.retrieval.gallery.search import GALLERY_BLOCK, search
from data_tools.cpus import processor
from tests.benchmarks.bare import bare_product

TARGET = 0.8


def made_gallery(path: Path, entries: int, dimensions: int) -> np.memmap[tuple[int, int], np.dtype[np.float32]]:
    """Random directions, written block by block."""
    random = np.random.default_rng(0)
    gallery = np.lib.format.open_memmap(path, "w+", np.float32, (entries, dimensions))
    for start in range(0, entries, GALLERY_BLOCK):
        block = gallery[start : start + GALLERY_BLOCK]
        block[:] = random.standard_normal(block.shape, np.float32)
    gallery.flush()
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--gallery", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    queries = np.random.default_rng(1).standard_normal((arguments.queries, arguments.dimensions), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        gallery = made_gallery(Path(folder) / "gallery.npy", arguments.gallery, arguments.dimensions)
        middle, products, seconds = arguments.queries // 2, [], []
        for _ in range(arguments.rounds):
            product = bare_product(queries[:middle], gallery)
            started = time.perf_counter()
            found = search(queries, gallery, 20)
            seconds.append(time.perf_counter() - started)
            products.append(product + bare_product(queries[middle:], gallery))
    assert found.gallery_QK.shape == (arguments.queries, 20)
    shares = [product / second for product, second in zip(products, seconds, strict=True)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"\n{processor()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}\n")
    print("| queries x gallery x dimensions | seconds | ms a query | product's seconds | share of its speed | target |")
    print("|---|---|---|---|---|---|")
    size = f"{arguments.queries:,} x {arguments.gallery:,} x {arguments.dimensions}"
    second, share = statistics.median(seconds), statistics.median(shares)
    verdict = "met" if share >= TARGET else "MISSED"
    print(
        f"| {size} | {second:.1f} | {1000 * second / arguments.queries:.2f} | {statistics.median(products):.1f} "
        f"| {share:.2f} | {TARGET}: {verdict} |"
    )
    print(f"\nmost memory of this process, mapped pages of the gallery among it: {memory:,.0f} MB")


if __name__ == "__main__":
    main()
