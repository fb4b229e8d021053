"""When it pays to decode clips on other nodes: what a worker gets by its own core and by decoding actors.

    python -m tests.benchmarks.bench_decoders [--rounds 5]

Several raylets on this machine: the worker stands on a node with a made-up GPU and one CPU, its decoders on a node
without GPUs, so that clips go through two object stores and a socket between them. The worker and its raylet are held
on one core, and all of the other node's processes on another: two decoders have no more of it than one.

Clips/s depend on the cores that are free; the CPU time of a clip, user and system, on each side does not, and tells
what any other number of cores gives. Clips are 8 frames of 256 x 128, from the shards of `bench_loader`.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from data_tools.identity_sampler import Schedule
from data_tools.loader import ClipLoader, TrainingClips, TrainingItems
from data_tools.loading_options import AugmentOptions, LoaderOptions
from data_tools.shards import ShardFolder
from ray_jobs.training.decoders import RemoteDecoders
from tests.benchmarks.bench_loader import CLIP, TRACKLETS, shards_of, write_pictures
from tests.jobs.gpu_cluster import GpuCluster

BATCH = 32
SIZE = (256, 128)
CLIP_BYTES = CLIP.length * 3 * SIZE[0] * SIZE[1]
OWN, RAW = "JPEG shards, own thread", "raw shards, own thread"
ONE, TWO = "JPEG shards, 1 decoder", "JPEG shards, 2 decoders"
ACTORS = {ONE: 1, TWO: 2}
STEPS = {OWN: 24, RAW: 96, **dict.fromkeys(ACTORS, 24)}
SPEEDS = (50, 100, 200, 400, 800, 1600)
NETWORKS = (10, 25, 100)


@dataclass(frozen=True, slots=True)
class Measured:
    """One round of one variant: clips per second, and CPU milliseconds per clip."""

    speed: float
    worker: float
    raylet: float
    decoders: float
    far_raylet: float

    def __iter__(self) -> Iterator[float]:
        return iter((self.speed, self.worker, self.raylet, self.decoders, self.far_raylet))


class Worker:
    """Placed where a training worker would be; consumes batches and discards them."""

    def __init__(self, folder: Path, cores: tuple[int, int] | None) -> None:
        torch.set_num_threads(1)
        self._folder, self._cores = folder, cores
        self._pids: dict[str, list[int]] = {
            "worker": [os.getpid()],
            "raylet": [os.getppid()],
            "decoders": [],
            "far_raylet": [],
        }
        if cores:
            hold(os.getpid(), cores[0])
            hold(os.getppid(), cores[0])

    def measure(self, way: str, rounds: int) -> list[Measured]:
        """The first round is a warm-up and left out."""
        store = ShardFolder(self._folder / ("raw" if way == RAW else "jpeg"))
        row = np.arange(TRACKLETS)
        items = TrainingItems.cut(store.rows.frame_count_N[row], row, row, row, row * 0, CLIP.piece)
        clips = TrainingClips(store, items, CLIP, AugmentOptions(), SIZE)
        decoders, pids = None, dict(self._pids)
        if number := ACTORS.get(way):
            decoders = RemoteDecoders(clips, partial(ShardFolder, store.folder), number=number)
            while decoders.up() < number:
                time.sleep(0.1)
            pids |= self._find(decoders)
        loader = ClipLoader(clips, LoaderOptions(threads=1, prefetch=2), decoders=decoders)
        measured = [one_round(loader, STEPS[way], pids) for _ in range(rounds + 1)][1:]
        assert decoders is None or not decoders.own_clips
        loader.close()
        return measured

    def _find(self, decoders: RemoteDecoders) -> dict[str, list[int]]:
        asked = [decoder.actor.__ray_call__.remote(own_and_parent) for decoder in decoders._decoders]
        found = ray.get(asked)
        raylets = {parent for _, parent in found}
        assert os.getppid() not in raylets, "the decoders stand on the worker's node"
        if self._cores:
            for pid in {*raylets, *(pid for pid, _ in found)}:
                hold(pid, self._cores[1])
        return {"decoders": [pid for pid, _ in found], "far_raylet": list(raylets)}


def own_and_parent(_: object) -> tuple[int, int]:
    return os.getpid(), os.getppid()


def one_round(loader: ClipLoader, steps: int, pids: dict[str, list[int]]) -> Measured:
    rng = np.random.default_rng(steps)
    shape = (steps, BATCH)
    schedule = Schedule(rng.integers(TRACKLETS, size=shape), rng.integers(2**63, size=shape))
    before, started = {name: cpu_seconds(group) for name, group in pids.items()}, time.perf_counter()
    for _ in loader.batches(schedule):
        pass
    seconds = time.perf_counter() - started
    spent = {name: 1000 * (cpu_seconds(group) - before[name]) / (steps * BATCH) for name, group in pids.items()}
    return Measured(steps * BATCH / seconds, **spent)


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes, over all threads."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in pids]
    return sum(int(field) for stat in fields for field in stat[11:13]) / os.sysconf("SC_CLK_TCK")


def hold(pid: int, core: int) -> None:
    """Pin all threads of a process to one core, including threads that it starts later."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def drive(folder: Path, rounds: int) -> None:
    """Run as a driver on the cluster: measure and print."""
    ray.init(logging_level=logging.WARNING)
    free = sorted(os.sched_getaffinity(0))
    cores = (free[0], free[1]) if len(free) > 1 else None
    group = ray.util.placement_group([{"CPU": 1, "GPU": 1}])
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    worker: Any = ray.remote(Worker).options(num_cpus=1, num_gpus=1, scheduling_strategy=strategy).remote(folder, cores)
    measured = {way: ray.get(worker.measure.remote(way, rounds)) for way in STEPS}
    print(f"{platform.machine()}, {len(free)} cores, ray {ray.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"medians of {rounds} rounds; {CLIP_BYTES / 1e6:.2f} MB a clip of {CLIP.length} frames\n")
    print_measured(measured)
    near = {way: median(rounds, lambda one: one.worker + one.raylet) for way, rounds in measured.items()}
    far = median(measured[TWO], lambda one: one.decoders + one.far_raylet)
    print_sizing(near[OWN], near[RAW], near[TWO], far)


def median(rounds: list[Measured], figure: Callable[[Measured], float]) -> float:
    return statistics.median(map(figure, rounds))


def print_measured(measured: dict[str, list[Measured]]) -> None:
    print("| | clips/s | CPU ms a clip: worker | its node's raylet | decoders | their node's raylet |")
    print("|---|---|---|---|---|---|")
    for way, rounds in measured.items():
        speed, *spent = map(statistics.median, zip(*rounds, strict=True))
        print(f"| {way} | {speed:,.0f} | " + " | ".join(f"{milliseconds:.2f}" for milliseconds in spent) + " |")


def print_sizing(own: float, raw: float, receiving: float, decoding: float) -> None:
    """What a GPU needs, from CPU milliseconds per clip: decoded by its own node, and received by it."""
    print(
        "\n| clips/s a GPU | cores of its node: JPEG | raw shards | receiving | cores of decoders | network, Gbit/s |"
        "\n|---|---|---|---|---|---|"
    )
    for speed in SPEEDS:
        cores = [speed * each / 1000 for each in (own, raw, receiving, decoding)]
        print(f"| {speed} | " + " | ".join(f"{c:.1f}" for c in cores) + f" | {speed * CLIP_BYTES * 8 / 1e9:.1f} |")
    limits = ", ".join(f"{gigabits * 1e9 / 8 / CLIP_BYTES:,.0f} at {gigabits} Gbit/s" for gigabits in NETWORKS)
    print(
        f"\nA core of its node decodes {1000 / own:,.0f} clips/s, or receives {1000 / receiving:,.0f} that others "
        f"decoded ({own / receiving:.1f} times as many), or reads {1000 / raw:,.0f} of raw shards."
        f"\nDecoders pay where raw shards do not fit that node and a GPU wants more than {1000 / own:,.0f} clips/s for "
        f"each core it can spare; the network's bound: {limits}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        drive(arguments.drive, arguments.rounds)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tracklets = write_pictures(folder)
        shards_of(tracklets, folder / "jpeg", "jpeg")
        shards_of(tracklets, folder / "raw", "raw")
        (folder / "cluster").mkdir()
        cluster = GpuCluster(folder / "cluster", (2,))
        try:
            driver = cluster.start_driver(
                "tests.benchmarks.bench_decoders", "--drive", str(folder), "--rounds", str(arguments.rounds)
            )
            output, _ = driver.communicate()
            print(output, end="")
            sys.exit(driver.returncode)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
