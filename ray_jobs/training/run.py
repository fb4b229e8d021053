"""A training run on Ray Train, from shards to the scored test set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.train import UserCallback
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from ccvid.config import Recipe
from ccvid.run_files import CONFIG_FILE, METRICS_FILE
from ccvid.training.stopping import EndedOnRequestError
from data_tools.errors import InputError
from data_tools.patient_filesystem import patient_filesystem
from data_tools.progress import kept, message, state
from data_tools.storage import StorageFolder
from ray_jobs.begun_runs import as_begun
from ray_jobs.cli import write_config
from ray_jobs.cluster.connection import logs_folder
from ray_jobs.cluster.job_console import settle, told_of_waiting
from ray_jobs.cluster.machines import decide_precision
from ray_jobs.cluster.orphans import release_orphans
from ray_jobs.cluster.tasks import run_task
from ray_jobs.cluster.worker_events import WorkerEvents
from ray_jobs.cluster.workers import Workers
from ray_jobs.sharding.shards import compare_checksums, ensure_shards
from ray_jobs.training.guard import claim, run_until_told
from ray_jobs.training.node_network import NodeNetwork

WAITING_SECONDS = 30.0
"""Until it is told that workers have not started yet."""

START_ATTEMPTS = 30
"""How often, a minute each, workers are waited for in a whole run: nodes that were lost may come back."""


def train(recipe: Recipe) -> StorageFolder:
    """Run a recipe to its end, or go on with it; returns the run folder.

    Raises:
        InputError: the data, the cluster or the run folder do not allow it, or a living run has this name.
        EndedOnRequestError: a signal asked the run to end.
        OSError: the run folder cannot be written.
    """
    folder = StorageFolder(recipe.run.storage) / recipe.run.name
    guard = claim(str(folder))
    shards = ensure_shards(recipe.data)
    recipe = as_begun(folder, recipe)
    if folder.exists(METRICS_FILE):
        if not folder.exists(CONFIG_FILE):
            raise InputError(f"{folder}: holds the scores of an evaluation; name another --run.name")
        message(f"{folder}: finished before; another --run.name starts a new run")
        return folder
    compare_checksums(recipe.data)
    state("checking the machines and the recipe")
    workers = Workers(recipe.compute)
    recipe = decide_precision(recipe, workers)
    run_task(check_start, recipe, shards, workers)
    folder.write(CONFIG_FILE, write_config(recipe).encode())
    message(f"run {recipe.run.name} under {folder}, {workers}")
    events = WorkerEvents(recipe.compute.max_failures)
    trainer = make_trainer(recipe, shards, workers, guard=guard, callbacks=[events])
    kept("data", f"the shards under {shards}")
    kept("run", f"the run under {folder}")
    state(f"starting {workers}")
    with told_of_waiting(WAITING_SECONDS, lambda: _waiting(workers)):
        run_until_told(lambda: fit(trainer, folder), guard)
    return folder


def make_trainer(
    recipe: Recipe,
    shards: str,
    workers: Workers,
    *,
    guard: Any = None,
    score_test: bool = True,
    shown: bool = True,
    callbacks: Sequence[UserCallback] = (),
) -> TorchTrainer:
    """The Ray Train run of a recipe; the same storage and name go on with it.

    Args:
        shards: place of the finished shards.
        guard: through which the run may be asked to end, see :mod:`ray_jobs.training.guard`.
        score_test: whether the test set is scored at the end.
        shown: whether the driver shows what the workers tell.
    """
    compute = recipe.compute
    # A process that is stopped as a whole cannot find out itself that it hangs.
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(compute.hang_seconds)
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")  # its cleaner would ask any cluster of the machine for the controller
    storage = StorageFolder(recipe.run.storage)
    return TorchTrainer(
        _train_worker,
        train_loop_config={
            "recipe": recipe.model_dump(mode="json"),
            "shards": shards,
            "cpus": workers.cpus,
            "guard": guard,
            "score_test": score_test,
            "shown": shown,
        },
        torch_config=NodeNetwork(),
        scaling_config=ScalingConfig(
            num_workers=workers.wanted,
            use_gpu=workers.use_gpu,
            resources_per_worker=workers.resources,
            placement_strategy="PACK" if workers.use_gpu else "SPREAD",
            elastic_resize_monitor_interval_s=compute.resize_every_seconds,
        ),
        run_config=RunConfig(
            name=recipe.run.name,
            storage_path=storage.path,
            storage_filesystem=patient_filesystem(storage, recipe.run.patience_seconds),
            failure_config=FailureConfig(max_failures=compute.max_failures, controller_failure_limit=START_ATTEMPTS),
            checkpoint_config=CheckpointConfig(num_to_keep=recipe.train.checkpoints_kept),
            logging_config=LoggingConfig("WARNING"),
            callbacks=list(callbacks),
        ),
    )


def fit(trainer: TorchTrainer, folder: StorageFolder) -> None:
    """Train to the end.

    Raises:
        InputError: the run failed; the reason in one message.
        EndedOnRequestError: it was asked to end.
    """
    try:
        result: Any = trainer.fit()
    except TrainingFailedError as error:
        raise InputError(_failure(error, folder)) from None
    finally:
        settle()
    outcome: WorkerOutcome = result.return_value
    if outcome.problem is not None:
        raise InputError(outcome.problem)
    if outcome.ended is not None:
        raise EndedOnRequestError(outcome.ended)


@dataclass(frozen=True, slots=True)
class WorkerOutcome:
    """How a worker's part ended: with neither, all was done."""

    problem: str | None = None
    """What the user gave and cannot be used."""
    ended: str | None = None
    """Where the run was left, as asked."""


def _waiting(workers: Workers) -> str:
    release_orphans()
    free = ray.available_resources()  # type: ignore[no-untyped-call]
    room = ", ".join(f"{free.get(kind, 0):g} {kind}s" for kind in ("CPU", *(("GPU",) if workers.use_gpu else ())))
    return (
        f"no worker is ready after {WAITING_SECONDS:.0f} s; those that have no room yet wait for it, free now: {room}"
    )


def _train_worker(config: dict[str, Any]) -> WorkerOutcome:
    from ray_jobs.training.worker import train_worker  # networks, losses and the report: seconds that only workers need

    return train_worker(config)


def check_start(recipe: Recipe, shards: str, workers: Workers) -> None:
    """As :func:`ray_jobs.training.worker.check_start`, for a node of the cluster."""
    from ray_jobs.training.worker import check_start

    check_start(recipe, shards, workers)


def _failure(error: TrainingFailedError, folder: StorageFolder) -> str:
    """The first cause in one message; the traceback stands in Ray's logs."""
    causes = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else [error]
    inputs = [cause for cause in causes if isinstance(cause, InputError)]
    cause = (inputs or causes)[0]
    text = str(cause) if inputs else str(cause).strip().splitlines()[-1]
    return (
        f"run {folder} failed: {text}\nThe same command goes on from the last checkpoint. What the workers printed is "
        f"in Ray's logs on their nodes: {logs_folder()}"
    )
