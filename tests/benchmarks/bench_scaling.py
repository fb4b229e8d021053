"""How training of `ccvid_cal` scales: from one to two CPU workers as measured, to 8, 64 and 512 GPUs on paper.

    python -m tests.benchmarks.bench_scaling [--rounds 3] [--steps 2] [--identities 1] [--no-bf16]

Measured: steps of both updates on a ready batch, one thread a worker, alone, of two processes that do not talk (what
the machine itself loses), and of two DDP workers over gloo; every worker has the same batch. The bytes are those that
DDP's buckets hold. On paper: ring all-reduce over n GPUs, t = 2 (n - 1)/n x bytes / bandwidth + latencies.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from ccvid.config import Recipe
from ccvid.training.cal import build_cal
from ccvid.training.cal_update import CalUpdate
from ccvid.training.clothes_heads import ClothesHead
from ccvid.training.context import LocalRun
from tests.benchmarks.ccvid_size import OUTFITS, PERSONS, ccvid_recipe, ccvid_split, ready_batch

ALONE, APART, TOGETHER = "one worker", "two processes that do not talk", "two workers"
STEP_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25)
GPUS, GPUS_A_NODE = (8, 64, 512), 8
NVLINK_BYTES, NETWORKS = 200e9, {"100 Gbit/s": 12.5e9, "400 Gbit/s": 50e9}
NVLINK_LATENCY, NETWORK_LATENCY = 3e-6, 15e-6
BACKWARD_SHARE = 2 / 3


@dataclass(frozen=True)
class Buckets:
    """Bytes that one step all-reduces, bucket by bucket in DDP's order, and bytes that it broadcasts."""

    model: list[int]
    clothes: list[int]
    statistics: int
    """BatchNorm's running statistics, which DDP copies from rank 0 before each forward."""

    @property
    def total(self) -> int:
        return sum(self.model) + sum(self.clothes)


class Worker:
    """One rank with two trainings: one on its own, and one together with the other rank."""

    def __init__(self, rank: int, folder: Path, recipe: Recipe, steps: int) -> None:
        self.rank, self._steps = rank, steps
        run, split = LocalRun(folder / str(rank)), ccvid_split()
        self._batch = ready_batch(recipe, split, run.device)
        _, self._own = build_cal(recipe, split, run)
        run.rank, run.world_size = rank, 2
        _, self._shared = build_cal(recipe, split, run)

    def round(self) -> dict[str, float]:
        """Seconds per step of this rank."""
        found = {}
        ways: list[tuple[str, CalUpdate, bool]] = [
            (ALONE, self._own, self.rank == 0),
            (APART, self._own, True),
            (TOGETHER, self._shared, True),
        ]
        for name, update, takes_part in ways:
            dist.barrier()
            started = time.perf_counter()
            for _ in range(self._steps if takes_part else 0):
                update(*self._batch, train_clothes=True, adversarial=True)
            found[name] = (time.perf_counter() - started) / self._steps
        return found

    def buckets(self) -> Buckets:
        """Seconds of one more step of both ranks."""
        head = self._shared.clothes
        assert isinstance(head, ClothesHead)
        model, clothes = (_noted(wrapped) for wrapped in (self._shared.model, head.classifier))
        self._shared(*self._batch, train_clothes=True, adversarial=True)
        statistics = sum(buffer.numel() * buffer.element_size() for buffer in self._shared.model.buffers())
        return Buckets(model, clothes, statistics)


def _noted(wrapped: object) -> list[int]:
    """The bytes of each bucket, from the next step on."""
    assert isinstance(wrapped, DistributedDataParallel)
    found: list[int] = []

    def noted(group: Any, bucket: Any) -> Any:
        buffer = bucket.buffer()
        found.append(buffer.numel() * buffer.element_size())
        return allreduce_hook(group, bucket)

    wrapped.register_comm_hook(None, lambda group, bucket: noted(group, bucket))  # DDP refuses annotations as strings
    return found


def run_rank(rank: int, folder: str, recipe: Recipe, steps: int, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    worker = Worker(rank, Path(folder), recipe, steps)
    measured = [worker.round() for _ in range(rounds + 1)][1:]
    torch.save({"measured": measured, "buckets": worker.buckets().__dict__}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def report_measured(measured: list[dict[str, float]], clips: int, bf16: bool) -> None:
    precision = "bf16" if bf16 else "float32"
    print(f"\n{platform.machine()}, one thread a worker, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"{clips} clips a worker, {precision}, medians of {len(measured)} rounds\n")
    print("| what | seconds a step | efficiency | lowest … highest |\n|---|---|---|---|")
    for name in (ALONE, APART, TOGETHER):
        ratios = sorted(found[ALONE] / found[name] for found in measured)
        seconds = statistics.median(found[name] for found in measured)
        print(f"| {name} | {seconds:.3f} | {statistics.median(ratios):.2f} | {ratios[0]:.2f} … {ratios[-1]:.2f} |")
    ratios = sorted(found[APART] / found[TOGETHER] for found in measured)
    print(f"\nOf what the machine gives two processes, two workers use {statistics.median(ratios):.2f}")


def ring_seconds(sizes: list[int], gpus: int, network: float) -> float:
    """All-reduces of buckets one after the other, through a ring that enters and leaves each node once.

    Its slowest link bounds it; a latency is paid at each of the 2 (n - 1) hops of a bucket.
    """
    nodes = gpus // GPUS_A_NODE
    bandwidth = NVLINK_BYTES if nodes == 1 else min(NVLINK_BYTES, network)
    between = 2 * nodes if nodes > 1 else 0
    latency = between * NETWORK_LATENCY + (2 * (gpus - 1) - between) * NVLINK_LATENCY
    return sum(2 * (gpus - 1) / gpus * size / bandwidth + latency for size in sizes)


def efficiency(step: float, buckets: Buckets, reduced: Callable[[list[int]], float], *, overlap: bool) -> float:
    """Scaling efficiency: the step's share of the step plus the communication that it waits for."""
    model, clothes = reduced(buckets.model), reduced(buckets.clothes)
    if overlap:  # the last bucket is full when backward ends, and the clothes classifier's step must be waited for
        model = max(model - BACKWARD_SHARE * step, reduced(buckets.model[-1:]))
    statistics = reduced([buckets.statistics]) / 2  # a broadcast goes around the ring once
    return step / (step + model + clothes + statistics)


def report_on_paper(buckets: Buckets) -> None:
    sizes = ", ".join(f"{size / 1e6:.1f}" for size in buckets.model)
    print(f"\nAll-reduced in a step, measured: {buckets.total / 1e6:.1f} MB of float32 gradients")
    print(f"({sizes} MB of the model for {PERSONS} persons; {sum(buckets.clothes) / 1e6:.1f} MB of the clothes")
    print(f"classifier for {PERSONS * OUTFITS} outfits, {OUTFITS} a person assumed), and broadcast:")
    print(f"{buckets.statistics / 1e6:.2f} MB of running statistics\n")
    print(f"On paper: nodes of {GPUS_A_NODE} GPUs, {NVLINK_BYTES / 1e9:.0f} GB/s a GPU within one, one network card a")
    print(f"node; {NVLINK_LATENCY * 1e6:.0f} us a hop within a node and {NETWORK_LATENCY * 1e6:.0f} us between, the")
    print(f"buckets one after the other. Overlap: backward is {BACKWARD_SHARE:.0%} of the step and hides all but the")
    print("last bucket; the clothes classifier's and the broadcast of running statistics are never hidden. Left out:")
    print("that workers wait for the slowest, loading, and NCCL's trees, which cost less latency than rings of")
    print("hundreds. Steps of 16 clips are assumed; measure yours with bench_step.\n")
    columns = [(gpus, name) for gpus in GPUS for name in (["NVLink"] if gpus == GPUS_A_NODE else NETWORKS)]
    print("| step, s | " + " | ".join(f"{gpus} GPUs, {name}" for gpus, name in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for step in STEP_SECONDS:
        cells = []
        for gpus, name in columns:

            def reduced(sizes: list[int], gpus: int = gpus, name: str = name) -> float:
                return ring_seconds(sizes, gpus, NETWORKS.get(name, NVLINK_BYTES))

            pair = (efficiency(step, buckets, reduced, overlap=overlap) for overlap in (True, False))
            cells.append(" / ".join(f"{share:.0%}" for share in pair))
        print(f"| {step:.3f} | " + " | ".join(cells) + " |")
    print("\nwith / without overlap. A worker's batch of P identities needs n x P different ones: with P = 4")
    print(
        f"CCVID's {PERSONS} reach {PERSONS // 4} workers, with P = 1 {PERSONS}; 64 GPUs at P = 4 need 256 identities."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--identities", type=int, default=1, help="of a worker's batch, four clips each")
    parser.add_argument("--no-bf16", action="store_true")
    arguments = parser.parse_args()
    recipe, bf16 = ccvid_recipe(identities=arguments.identities), not arguments.no_bf16
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"bf16": bf16})})
    with tempfile.TemporaryDirectory() as folder:
        given = (folder, recipe, arguments.steps, arguments.rounds)
        spawn(run_rank, args=given, nprocs=2)  # type: ignore[no-untyped-call]
        ranks = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    slower = [
        {ALONE: first[ALONE]} | {name: max(first[name], second[name]) for name in (APART, TOGETHER)}
        for first, second in zip(ranks[0]["measured"], ranks[1]["measured"], strict=True)
    ]
    report_measured(slower, 4 * arguments.identities, bf16)
    report_on_paper(Buckets(**ranks[0]["buckets"]))


if __name__ == "__main__":
    main()
