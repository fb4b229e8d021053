"""A training run on Ray Train, from shards to the scored test set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from ccvid.config import Recipe
from ccvid.trained_model import configured_backbone
from ccvid.training.distributed import StoppedTogetherError
from ccvid.training.run import METRICS_FILE, train_and_score
from ccvid.training.split import split_for
from data_tools.errors import InputError
from data_tools.identity_sampler import PkSampler
from data_tools.manifest import atomic_file
from data_tools.shards import ShardFolder
from ray_jobs.cli import CONFIG_FILE, write_config
from ray_jobs.cluster import Workers
from ray_jobs.ray_run import RayRun
from ray_jobs.sharding import ensure_shards, verify

FREE_SETTINGS = (
    "run",
    "compute",
    "loader",
    "data.verify_checksums",
    "train.log_every_seconds",
    "train.checkpoint_every_",
    "train.checkpoints_kept",
)
"""How the settings begin that may change when a run goes on: on the same world size they change no result."""


def train(recipe: Recipe) -> Path:
    """Run a recipe to its end, or go on with it; returns the run folder.

    Raises:
        InputError: the data, the cluster or the run folder do not allow it.
        OSError: the run folder cannot be written.
    """
    shards = ensure_shards(recipe.data)
    folder = recipe.run.storage / recipe.run.name
    _refuse_other_settings(folder, recipe)
    if (folder / METRICS_FILE).exists():
        if not (folder / CONFIG_FILE).exists():
            raise InputError(f"{folder}: holds the scores of an evaluation; name another --run.name")
        print(f"{folder}: finished before; another --run.name starts a new run", flush=True)
        return folder
    if recipe.data.verify_checksums:
        verify(shards, frames=False)
    workers = Workers(recipe.compute)
    _check_start(recipe, shards, workers.count)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / CONFIG_FILE) as file:
        file.write(write_config(recipe).encode())
    print(f"run {recipe.run.name} under {folder}, {workers}", flush=True)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"recipe": recipe.model_dump(mode="json"), "shards": str(shards), "cpus": workers.cpus},
        scaling_config=ScalingConfig(
            num_workers=workers.count, use_gpu=workers.use_gpu, resources_per_worker=workers.resources
        ),
        run_config=RunConfig(
            name=recipe.run.name,
            storage_path=str(recipe.run.storage),
            failure_config=FailureConfig(max_failures=recipe.compute.max_failures, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(num_to_keep=recipe.train.checkpoints_kept),
            logging_config=LoggingConfig("WARNING"),
        ),
    )
    try:
        result: Any = trainer.fit()
    except TrainingFailedError as error:
        raise InputError(_failure(error, folder)) from None
    if result.return_value is not None:
        raise InputError(result.return_value)
    return folder


def _train_worker(config: dict[str, Any]) -> str | None:
    """What every Ray Train worker runs; the message where a single worker cannot use what the user gave."""
    recipe = Recipe.model_validate(config["recipe"])
    run = RayRun(recipe.run.storage / recipe.run.name)
    torch.set_num_threads(config["cpus"])
    try:
        train_and_score(recipe, run, ShardFolder(Path(config["shards"])))
    except StoppedTogetherError as error:
        return str(error)
    except InputError as error:
        if run.world_size > 1:  # the others wait for this one, so the whole group must end
            raise
        return str(error)
    return None


def _refuse_other_settings(folder: Path, recipe: Recipe) -> None:
    """Check that the run that is there, if any, is the same."""
    path = folder / CONFIG_FILE
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable: {error}") from None
    changes = [
        f"  {name}: {old!r} there, {new!r} now"
        for name, old, new in _differences(found, recipe.model_dump(mode="json"))
        if not name.startswith(FREE_SETTINGS)
    ]
    if changes:
        raise InputError(
            f"{folder}: holds a run with other settings; name another --run.name or remove it\n" + "\n".join(changes)
        )


def _differences(old: object, new: object, place: str = "") -> list[tuple[str, object, object]]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for name in sorted({*old, *new})
            for difference in _differences(old.get(name), new.get(name), f"{place}.{name}".lstrip("."))
        ]
    return [] if old == new else [(place, old, new)]


def _check_start(recipe: Recipe, shards: Path, world_size: int) -> None:
    """Find on the driver what every worker would stumble over."""
    store = ShardFolder(shards)
    configured_backbone(recipe.model, recipe.clip)
    items = split_for(recipe, store).items
    PkSampler(items.person_I, recipe.batch, world_size=world_size, seed=recipe.train.seed, clothes_I=items.clothes_I)


def _failure(error: TrainingFailedError, folder: Path) -> str:
    """The first cause in one message; the traceback stands in Ray's logs."""
    causes = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else [error]
    inputs = [cause for cause in causes if isinstance(cause, InputError)]
    cause = (inputs or causes)[0]
    text = str(cause) if inputs else str(cause).strip().splitlines()[-1]
    return f"run {folder} failed: {text}\nThe same command goes on from the last checkpoint."


def read_metrics(folder: Path) -> dict[str, Any]:
    """What a finished run's ``metrics.json`` holds; {} where nothing was scored."""
    path = folder / METRICS_FILE
    return dict(json.loads(path.read_text())) if path.exists() else {}
