"""Bytes read from an S3 server by a node's workers, and the speed of loading clips from the cache.

    python -m tests.benchmarks.bench_remote [--workers 2] [--rounds 7] [--cpu-time]

Workers are processes of one node with an empty cache; each loads its share of every epoch's PK batches. Targets: in the
first epoch at most 1.05 times the shards' size, none in a later one, and clips from the cache as fast as from the same
shards on the disk (ratio 1.0, the median of rounds that take turns).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from data_tools.clips import ClipOptions
from data_tools.datasets.problems import Dataset
from data_tools.identity_sampler import PkOptions, PkSampler
from data_tools.loader import ClipLoader, TrainingClips, TrainingItems
from data_tools.loading_options import AugmentOptions, LoaderOptions
from data_tools.manifest import MANIFEST_NAME
from data_tools.shard_cache import CacheOptions, open_shards
from data_tools.shard_plan import ShardOptions
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from tests.benchmarks.bench_loader import CLIPS_A_ROUND, JPEG, our_loader, write_pictures
from tests.made_shards import make_shards
from tests.s3_server import S3Server

EPOCHS = 3
CLIP = ClipOptions(length=8, stride=1, piece=8)


def work(rank: int, workers: int, place: str, cache: CacheOptions, epoch_ends: Barrier) -> None:
    """One worker: every epoch's batches of its rank; after each, it waits for the others and for the measurement."""
    store = open_shards(place, cache)
    row = np.arange(len(store.rows))
    items = TrainingItems.cut(store.rows.frame_count_N[row], row, row, row, row * 0, CLIP.piece)
    sampler = PkSampler(items.person_I, PkOptions(identities=4, clips=4), world_size=workers, seed=1)
    loader = ClipLoader(TrainingClips(store, items, CLIP, AugmentOptions(), (256, 128)), LoaderOptions(threads=1))
    for epoch in range(EPOCHS):
        clips = sum(len(batch) for batch in loader.batches(sampler.schedule(epoch, rank)))
        assert clips == sampler.steps_per_epoch * 16
        for _ in range(2):
            epoch_ends.wait()


def bytes_by_epoch(server: S3Server, place: str, cache: CacheOptions, workers: int) -> list[int]:
    """Bytes that the server sent in each epoch to all workers together."""
    context = multiprocessing.get_context("spawn")
    epoch_ends = context.Barrier(workers + 1)
    processes = [
        context.Process(target=work, args=(rank, workers, place, cache, epoch_ends)) for rank in range(workers)
    ]
    sent = [server.bytes_sent]
    for process in processes:
        process.start()
    for _ in range(EPOCHS):
        epoch_ends.wait(300)
        sent.append(server.bytes_sent)
        epoch_ends.wait(300)
    for process in processes:
        process.join()
    return [after - before for before, after in pairwise(sent)]


def speed_ratios(cached: ShardFolder, local: ShardFolder, rounds: int, clock: Callable[[], float]) -> list[float]:
    """Clips/s from the cache relative to clips/s from the disk, for each round; the first is a warm-up and left out."""
    loads = [our_loader(cached), our_loader(local)]
    ratios = []
    for number in range(rounds + 1):
        seconds = {}
        for which in (0, 1) if number % 2 else (1, 0):
            started = clock()
            loads[which](CLIPS_A_ROUND[JPEG])
            seconds[which] = clock() - started
        ratios.append(seconds[1] / seconds[0])
    return ratios[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true", help="speed by CPU time, on a busy machine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, S3Server() as server:
        os.environ.update(server.environment)
        folder, cache = Path(temporary), CacheOptions(folder=Path(temporary) / "cache")
        tracklets = write_pictures(folder)
        make_shards(Dataset("benchmark", tracklets), folder / "shards", ShardOptions(shard_mebibytes=1))
        remote = StorageFolder(server.bucket()) / "shards"
        remote.upload_folder(folder / "shards", last=MANIFEST_NAME)
        sent = bytes_by_epoch(server, str(remote), cache, arguments.workers)
        local = ShardFolder(folder / "shards")
        clock = time.process_time if arguments.cpu_time else time.perf_counter
        ratios = speed_ratios(open_shards(str(remote), cache), local, arguments.rounds, clock)
    size = sum(entry.size_bytes for entry in local.manifest.shards)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"{len(local.manifest.shards)} shards, {size / 2**20:.1f} MiB; {arguments.workers} workers\n")
    print("| what | found | target | |\n|---|---|---|---|")
    shares = [count / size for count in sent]
    for epoch, share in enumerate(shares):
        target = 0 if epoch else 1.05
        what = f"bytes read in epoch {epoch + 1} by the shards' size"
        print(f"| {what} | {share:.4f} | {target} | {verdict(share <= target)} |")
    ratio = statistics.median(ratios)
    spread = f"{min(ratios):.2f} … {max(ratios):.2f}"
    print(f"| clips/s, cache by local shards | {ratio:.2f} ({spread}) | 1.0, within 0.03 | {verdict(ratio >= 0.97)} |")


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


if __name__ == "__main__":
    main()
