"""Exact top-20 search of random features, and its share of the machine's matrix-product peak.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_search [--queries 10000] [--gallery 1000000] [--rounds 1]

The gallery is a memory map on disk. The peak is a bare float32 product of the same blocks, taken in the same run
before and after; memory is that of this process. With a GPU add `--device cuda`. Needs neither Ray nor a decoder.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ccvid.retrieval.gallery.search import GALLERY_BLOCK, QUERY_BLOCK, search


def made_gallery(path: Path, entries: int, dimensions: int) -> np.memmap[tuple[int, int], np.dtype[np.float32]]:
    """Random directions, written block by block."""
    random = np.random.default_rng(0)
    gallery = np.lib.format.open_memmap(path, "w+", np.float32, (entries, dimensions))
    for start in range(0, entries, GALLERY_BLOCK):
        block = gallery[start : start + GALLERY_BLOCK]
        block[:] = random.standard_normal(block.shape, np.float32)
    gallery.flush()
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def peak_flops(dimensions: int, device: torch.device, seconds: float = 4.0) -> float:
    """Floating-point operations per second of bare products of one block."""
    query, gallery = (torch.randn(rows, dimensions, device=device) for rows in (QUERY_BLOCK, GALLERY_BLOCK))
    query @ gallery.T
    wait(device)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        query @ gallery.T
        wait(device)
        done += 1
    return 2.0 * QUERY_BLOCK * GALLERY_BLOCK * dimensions * done / (time.perf_counter() - started)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--gallery", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    queries = np.random.default_rng(1).standard_normal((arguments.queries, arguments.dimensions), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        gallery = made_gallery(Path(folder) / "gallery.npy", arguments.gallery, arguments.dimensions)
        peaks, seconds = [peak_flops(arguments.dimensions, device)], []
        for _ in range(arguments.rounds):
            started = time.perf_counter()
            found = search(queries, gallery, 20, device=device)
            seconds.append(time.perf_counter() - started)
            peaks.append(peak_flops(arguments.dimensions, device))
    assert found.gallery_QK.shape == (arguments.queries, 20)
    needed = 2.0 * arguments.queries * arguments.gallery * arguments.dimensions
    shares = [needed / second / statistics.fmean(peaks) for second in seconds]
    cpu = f"{platform.machine()}, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name() if device.type == "cuda" else cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"\n{name}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}\n")
    print("| queries x gallery x dimensions | seconds | ms a query | share of the product's peak | peak GFLOP/s |")
    print("|---|---|---|---|---|")
    size = f"{arguments.queries:,} x {arguments.gallery:,} x {arguments.dimensions}"
    second = statistics.median(seconds)
    print(
        f"| {size} | {second:.1f} | {1000 * second / arguments.queries:.2f} | {statistics.median(shares):.2f} "
        f"| {statistics.fmean(peaks) / 1e9:.0f} |"
    )
    print(f"\nmost memory of this process, mapped pages of the gallery among it: {memory:,.0f} MB")


if __name__ == "__main__":
    main()
