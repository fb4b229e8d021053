"""What a checkpoint of `ccvid_cal` costs: how long training stands still for it, as a share of CCVID's epoch.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_checkpoint [--rounds 4] [--identities 4]

One Ray Train worker makes the recipe's steps on a ready batch and saves as the trainer does. Training stands still
while the weights are checked, serialised to the node's disk and handed to Ray; the upload goes on beside the next
steps. Needs about 2 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ray.train.v2.api.config import RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from ccvid.config import Recipe, RunOptions
from ccvid.trained_model import write_description
from ccvid.training.cal import build_cal
from ccvid.training.checkpoint import Progress, TrainedParts, is_finite, save_checkpoint
from data_tools.identity_sampler import PkOptions
from ray_jobs.cluster.connection import connect
from ray_jobs.training.ray_context import RayRun
from tests.benchmarks.ccvid_size import (
    ASSUMED,
    OUTFITS,
    PERSONS,
    ccvid_recipe,
    ccvid_split,
    ready_batch,
    steps_per_epoch,
)

TARGET = 0.02
STEP_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25)
WORKERS = (1, 2, 8)

Parts = dict[str, float]


def measure(config: dict[str, Any]) -> list[Parts]:
    """Runs in the worker: seconds of each part, one dict per round; the first is a warm-up and left out."""
    torch.set_num_threads(config["threads"])
    recipe = ccvid_recipe(identities=config["identities"])
    recipe = recipe.model_copy(update={"run": RunOptions(name="checkpoints", storage=config["folder"])})
    saver = _Saver(recipe, RayRun(recipe, "", lambda: False))
    return [saver.round(number) for number in range(config["rounds"] + 1)][1:]


class _Saver:
    """Runs steps and the checkpoints between them, like the trainer."""

    def __init__(self, recipe: Recipe, run: RayRun) -> None:
        self._recipe, self._run, split = recipe, run, ccvid_split()
        self._parts, self._update = build_cal(recipe, split, run)
        self._parts.model.train()
        self._batch = ready_batch(recipe, split, run.device)

    def round(self, number: int) -> Parts:
        folder = Path(tempfile.mkdtemp(dir=self._run.scratch))
        found = {
            "step": _seconds(self._step),
            "copy": _seconds(lambda: _copy_aside(self._parts)),
            "check": _seconds(lambda: is_finite(self._parts.model)),
            "serialise": _seconds(lambda: self._save(folder)),
            "size": sum(file.stat().st_size for file in folder.iterdir()),
            "hand over": _seconds(lambda: self._run.report({"epoch": float(number)}, folder)),
        }
        steps, started = 0, time.perf_counter()
        while folder.exists():  # removed after the upload
            self._step()
            steps += 1
        return {**found, "lost": time.perf_counter() - started - steps * found["step"]}

    def _step(self) -> None:
        self._update(*self._batch, train_clothes=True, adversarial=True)
        if self._run.device.type == "cuda":
            torch.cuda.synchronize()

    def _save(self, folder: Path) -> None:
        save_checkpoint(folder, self._parts, Progress())
        recipe = self._recipe
        write_description(folder, recipe.model, recipe.clip, persons=PERSONS, clothes=PERSONS * OUTFITS)


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _copy_aside(parts: TrainedParts) -> list[torch.Tensor]:
    """Bytes that would have to be copied for the rest of the saving to run during training."""
    states = [parts.model.state_dict(), *parts.optimizers["model"].state.values()]
    return [tensor.detach().cpu().clone() for state in states for tensor in state.values()]


def run_worker(rounds: int, identities: int, threads: int) -> list[Parts]:
    connect()
    with tempfile.TemporaryDirectory() as folder:
        trainer = TorchTrainer(
            measure,
            train_loop_config={"rounds": rounds, "identities": identities, "threads": threads, "folder": folder},
            scaling_config=ScalingConfig(num_workers=1, use_gpu=torch.cuda.is_available()),
            run_config=RunConfig(name="checkpoints", storage_path=folder),
        )
        measured: list[Parts] = trainer.fit().return_value  # type: ignore[attr-defined]
    return measured


def report(measured: list[Parts], clips: int, threads: int) -> None:
    middle = {name: statistics.median(found[name] for found in measured) for name in measured[0]}
    blocked = middle["check"] + middle["serialise"] + middle["hand over"]
    blocks = sorted(found["check"] + found["serialise"] + found["hand over"] for found in measured)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {threads} threads"
    print(f"\n{device}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}, medians of {len(measured)} rounds\n")
    print(f"a checkpoint of c2d_resnet50 with both optimizers: {middle['size'] / 1e6:.0f} MB\n")
    print("| part | seconds |\n|---|---|")
    for name in ("check", "serialise", "hand over"):
        print(f"| {name} | {middle[name]:.3f} |")
    print(f"| training stands still | {blocked:.3f} ({blocks[0]:.3f} … {blocks[-1]:.3f}) |")
    print(f"| lost by the steps beside the upload | {middle['lost']:.3f} |")
    print(f"| copying the tensors aside, were they serialised beside training | {middle['copy']:.3f} |")
    print(f"| a step of {clips} clips | {middle['step']:.3f} |")
    _print_shares(blocked, middle["step"], clips)
    apart = middle["check"] + middle["copy"] + middle["hand over"]
    print(f"Whatever the step: {blocked / TARGET:.0f} s or more between two checkpoints stay within 2 %;")
    print(f"serialised beside training it would be {apart / TARGET:.0f} s.")


def _print_shares(blocked: float, step_seconds: float, clips: int) -> None:
    split, batch = ccvid_split(), PkOptions(identities=4, clips=4)
    print(f"\nEpochs of CCVID ({ASSUMED}), 16 clips a worker; the first row's step as measured")
    if clips != 16:
        step_seconds *= 16 / clips
        print(f"(taken as 16/{clips} of the step of {clips} clips)")
    print("the others' assumed. A checkpoint at every epoch is the default; aim: at most 2 %.\n")
    print("| step, s | workers | steps an epoch | share at every epoch | | within 2 % at every | or every |")
    print("|---|---|---|---|---|---|---|")
    for seconds, workers in [(step_seconds, 1), *((seconds, w) for seconds in STEP_SECONDS for w in WORKERS)]:
        steps = steps_per_epoch(split, batch, workers)
        share = blocked / (steps * seconds)
        fewest = max(1, -(-blocked // (TARGET * seconds)))
        verdict = "met" if share <= TARGET else "MISSED"
        epochs = max(1, -(-fewest // steps))
        print(
            f"| {seconds:.3f} | {workers} | {steps} | {share:.2%} | {verdict} | {epochs:.0f} epochs | "
            f"{fewest:.0f} steps |"
        )
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--identities", type=int, default=4, help="of the measured batch, four clips each")
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    measured = run_worker(arguments.rounds, arguments.identities, threads)
    report(measured, 4 * arguments.identities, threads)


if __name__ == "__main__":
    main()
