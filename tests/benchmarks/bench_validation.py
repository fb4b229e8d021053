"""What validation costs a training run: with workers that score and wait, and with a validator beside training.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_validation [--rounds 3] [--epochs 15] [--every 1 5]

The walkers and the network of the recipe `synthetic`, one training worker, trained in turn in both ways, each round
with a seed of its own. The worker is held on one core in both; the validator has another, which stands idle with
waiting: what is measured is the time that a core more saves, not work saved. Prints a line of JSON for each run and for
each round's pair: `seconds` of the training without the start of its processes; `cpu_seconds` of the worker, which are
about the same on a quiet machine and do not count others' work on a busy one; and `standing`, the seconds in which no
step was made for the sake of validation. It fails if the two ways do not end with the same best weights, bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.train.v2.api.config import LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from ccvid.config import Recipe
from ccvid.run_files import BEST_FOLDER
from ccvid.training.checkpoint import Progress
from ccvid.training.context import Validators
from ccvid.training.held_out import HeldOut
from ccvid.training.step_log import StepLog
from ccvid.training.trainer import Trainer
from data_tools.cpus import limit_threads
from data_tools.shards import ShardFolder
from ray_jobs.cluster.connection import connect
from ray_jobs.sharding.shards import ensure_shards
from ray_jobs.training.ray_context import RayRun
from ray_jobs.training.validators import RemoteValidators
from tests.benchmarks.bench_methods import RECIPE

WAYS = {"waiting": 0, "beside": 1}
"""Validators of each."""
Found = dict[str, Any]


class HeldRun(RayRun):
    """Worker and validator each on a core of its own."""

    def validators(self, held_out: HeldOut) -> Validators | None:
        cores = sorted(os.sched_getaffinity(0))
        found = super().validators(held_out)
        if isinstance(found, RemoteValidators):
            actor = found._validators[0].actor
            ray.get(actor.__ray_call__.remote(lambda _: hold(cores[1])))  # its start is not the training's
        hold(cores[0])
        return found


class TimedTrainer(Trainer):
    """Counts the seconds that a validation takes from training."""

    standing = 0.0

    def fit(self) -> None:
        end_epoch = self.validation.end_epoch

        def timed(progress: Progress, log: StepLog) -> tuple[Progress, dict[str, float]]:
            began = time.perf_counter()
            result = end_epoch(progress, log)
            self.standing += time.perf_counter() - began
            return result

        self.validation.end_epoch = timed  # type: ignore[method-assign]
        super().fit()


def hold(core: int) -> None:
    """Pin all threads of this process to a core, and those that it starts later."""
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


def train(config: dict[str, Any]) -> Found:
    """Runs in the training worker."""
    recipe = Recipe.model_validate(config["recipe"])
    recipe = recipe.within(limit_threads(1))
    with HeldRun.of(recipe, config["shards"], None, shown=False) as run:
        trainer = TimedTrainer(recipe, ShardFolder(Path(config["shards"])), run)
        began, cpu = time.perf_counter(), time.process_time()
        trainer.fit()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        best = hashlib.sha256((run.folder / BEST_FOLDER / "model.safetensors").read_bytes()).hexdigest()
    progress = trainer.progress
    found = {"seconds": seconds, "cpu_seconds": cpu_seconds, "standing": trainer.standing}
    return {**found, "held_out": len(trainer.split.held_out_rows), "best_epoch": progress.best_epoch, "best": best}


def one_run(recipe: Recipe, shards: str, way: str, number: int) -> Found:
    compute = recipe.compute.model_copy(update={"validators": WAYS[way]})
    run = recipe.run.model_copy(update={"name": f"{way}-{recipe.train.validate_every}-{number}"})
    seeded = recipe.train.model_copy(update={"seed": number + 1})
    values = recipe.model_copy(update={"compute": compute, "run": run, "train": seeded}).model_dump(mode="json")
    trainer = TorchTrainer(
        train,
        train_loop_config={"recipe": values, "shards": shards},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name=run.name, storage_path=run.storage, logging_config=LoggingConfig("WARNING")),
    )
    found: Found = trainer.fit().return_value  # type: ignore[attr-defined]
    return found


def compare(recipe: Recipe, shards: str, rounds: int) -> list[Found]:
    """Pairs of runs; the ways take turns in being the first."""
    pairs = []
    every = {"every": recipe.train.validate_every}
    for number in range(rounds):
        ways: Sequence[str] = list(WAYS) if number % 2 == 0 else list(WAYS)[::-1]
        found = {way: one_run(recipe, shards, way, number) for way in ways}
        for way in ways:
            show({**every, "round": number, "way": way, **found[way], "load": os.getloadavg()[0]})
        waiting, beside = found["waiting"], found["beside"]
        assert (waiting["best_epoch"], waiting["best"]) == (beside["best_epoch"], beside["best"]), "other weights"
        saved = {
            "saved_share": 1 - beside["seconds"] / waiting["seconds"],
            "cpu_saved_share": 1 - beside["cpu_seconds"] / waiting["cpu_seconds"],
            "standing_share_waiting": waiting["standing"] / waiting["seconds"],
            "standing_share_beside": beside["standing"] / beside["seconds"],
        }
        pairs.append(saved)
        show({**every, "round": number, **saved})
    return pairs


def show(line: Found) -> None:
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in line.items()}
    print(json.dumps(rounded), flush=True)


def recipe_in(folder: Path, own: argparse.Namespace, every: int) -> Recipe:
    values = yaml.safe_load(RECIPE.read_text())
    values["run"] = {"name": "validation", "storage": str(folder)}
    values["data"]["shards"] = str(own.shards or folder / "shards")
    values["train"] |= {"epochs": own.epochs, "validate_every": every, "bf16": own.bf16}
    values["train"]["held_out_share"] = own.held_out_share
    values["method"]["start_epoch"] = own.epochs // 3
    return Recipe.model_validate(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--every", type=int, nargs="+", default=[1], help="epochs between validations")
    parser.add_argument("--held-out-share", type=float, default=0.1)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--shards", type=Path, help="the recipe's, which are else made")
    own = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")
    # A cluster of its own: with a slot for the worker, the validator and one task.
    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    connect()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for every in own.every:
            recipe = recipe_in(folder, own, every)
            pairs = compare(recipe, ensure_shards(recipe.data), own.rounds)
            middle = {name: statistics.median(pair[name] for pair in pairs) for name in pairs[0]}
            spread = {name: [round(each(pair[name] for pair in pairs), 3) for each in (min, max)] for name in middle}
            show({"every": every, "rounds": own.rounds, **middle, "least_and_most": spread})


if __name__ == "__main__":
    main()
