"""A whole training step of `ccvid_cal` against the bare forward + backward of its C2D-ResNet-50.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_step [--steps 4] [--rounds 3] [--identities 2] [--no-bf16]

The step is the trainer's own: loader from JPEG shards, both updates of CAL, both optimizers, logging. The bare side
runs the same network in the same precision on one ready batch. With a GPU, add `--identities 4` for the recipe's batch.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from ccvid.config import Recipe
from ccvid.training.context import LocalRun
from ccvid.training.step_log import StepLog
from ccvid.training.trainer import Trainer
from data_tools.tracklet import Tracklet
from data_tools.transforms import normalise
from tests.benchmarks.bench_loader import shards_of, write_pictures

TARGET = 1.1
RECIPE = Path(__file__).parents[2] / "ray_jobs" / "recipes" / "ccvid_cal.yaml"


def make_trainer(root: Path, identities: int, bf16: bool, device: str) -> Trainer:
    """The recipe's trainer on made-up pictures, with clothes losses from the first epoch."""
    pictures = root / "pictures"
    pictures.mkdir()
    tracklets: tuple[Tracklet, ...] = tuple(
        replace(tracklet, person=str(number // 2), clothes=str(number % 2))
        for number, tracklet in enumerate(write_pictures(pictures))
    )
    store = shards_of(tracklets, root / "shards", "jpeg")
    values = recipe_values(root / "shards", bf16=bf16)
    values["batch"] = {"identities": identities, "clips": 2 if device == "cpu" else 4}
    return Trainer(Recipe.model_validate(values), store, LocalRun(root / "run", device))


def recipe_values(shards: Path, *, bf16: bool) -> dict[str, Any]:
    """`ccvid_cal` on other data, with random weights and both updates of CAL from the first epoch."""
    values: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    values["data"]["shards"] = str(shards)
    values["model"]["weights"] = "random"
    values["method"]["start_epoch"] = 0
    values["clip"]["piece"] = 8  # many items, so that an epoch has enough steps
    values["train"] |= {"bf16": bf16, "log_every_seconds": 5, "held_out_share": 0, "test_weights": "last"}
    return values


def bare_seconds(trainer: Trainer, steps: int) -> float:
    """Seconds per step of forward + backward of the backbone alone."""
    batch, options = trainer.recipe.batch, trainer.recipe.model
    shape = (batch.identities * batch.clips, trainer.recipe.clip.length, options.height, options.width, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=trainer.run.device).permute(0, 1, 4, 2, 3)
    ready = normalise(frames)
    started = time.perf_counter()
    for _ in range(steps):
        trainer.model.embed(ready).sum().backward()  # type: ignore[no-untyped-call]
        trainer.model.zero_grad()
    _wait(trainer)
    return (time.perf_counter() - started) / steps


def step_seconds(trainer: Trainer, steps: int, epoch: int) -> float:
    """Seconds per step of the training loop, loader and logging included."""
    trainer.sampler.steps_per_epoch = steps
    started = time.perf_counter()
    trainer._train_epoch(epoch)
    trainer._flush_log(epoch, steps)
    _wait(trainer)
    trainer.progress = replace(trainer.progress, step=0)
    return (time.perf_counter() - started) / steps


def _wait(trainer: Trainer) -> None:
    if trainer.run.device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--identities", type=int, default=2)
    parser.add_argument("--no-bf16", action="store_true")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as temporary:
        trainer = make_trainer(Path(temporary), arguments.identities, not arguments.no_bf16, device)
        trainer.log = StepLog(trainer.run.folder, first_step=0, total_steps=100_000, clips_per_step=4)
        trainer.model.train()
        pairs = [
            (bare_seconds(trainer, arguments.steps), step_seconds(trainer, arguments.steps, epoch))
            for epoch in range(arguments.rounds + 1)
        ][1:]
        trainer.log.close()
    ratios = sorted(whole / bare for bare, whole in pairs)
    ratio = statistics.median(ratios)
    name = (
        torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    precision = "float32" if arguments.no_bf16 else "bf16"
    print(f"\n{name}, torch {torch.__version__}, {precision}, load {os.getloadavg()[0]:.1f}\n")
    print("| what | seconds a step | of the bare time | lowest … highest | target | |\n|---|---|---|---|---|---|")
    print(f"| bare forward + backward | {statistics.median(bare for bare, _ in pairs):.3f} |")
    whole = statistics.median(whole for _, whole in pairs)
    verdict = "met" if ratio <= TARGET else "MISSED"
    print(f"| whole step | {whole:.3f} | {ratio:.2f} | {ratios[0]:.2f} … {ratios[-1]:.2f} | {TARGET} | {verdict} |")


if __name__ == "__main__":
    main()
