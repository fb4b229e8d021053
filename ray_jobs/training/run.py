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
from ccvid.retrieval.report.mosaic import read_hiding
from ccvid.run_files import CONFIG_FILE, METRICS_FILE
from ccvid.training.stopping import EndedOnRequestError
from data_tools.errors import InputError
from data_tools.patient_filesystem import patient_filesystem
from data_tools.progress import message, note_kept, state
from data_tools.storage import StorageFolder
from ray_jobs.begun_runs import as_begun
from ray_jobs.cli import write_config
from ray_jobs.cluster.connection import logs_folder
from ray_jobs.cluster.job_console import message_if_silent, settle
from ray_jobs.cluster.machines import precision_and_memory
from ray_jobs.cluster.orphans import release_orphans
from ray_jobs.cluster.tasks import run_task
from ray_jobs.cluster.worker_events import WorkerEvents
from ray_jobs.cluster.workers import Workers
from ray_jobs.sharding.shards import compare_checksums, ensure_shards
from ray_jobs.training.guard import claim, run_stoppable
from ray_jobs.training.node_network import NodeNetwork
from ray_jobs.training.stages import after_first_stage

WAITING_SECONDS = 30.0
"""After this time without workers, a message says so."""

START_ATTEMPTS = 30
"""How many times per run, a minute each, to wait for workers: lost nodes may come back."""


def train(recipe: Recipe) -> StorageFolder:
    """Run or resume a recipe to its end; returns the run folder.

    Raises:
        InputError: the data, the cluster or the run folder does not allow it, or an active run has this name.
        EndedOnRequestError: a signal asked the run to stop.
        OSError: the run folder cannot be written.
    """
    recipe = after_first_stage(recipe, train)
    folder = StorageFolder(recipe.run.storage) / recipe.run.name
    guard = claim(str(folder))
    shards = ensure_shards(recipe.data)
    recipe = as_begun(folder, recipe)
    if folder.exists(METRICS_FILE):
        if not folder.exists(CONFIG_FILE):
            raise InputError(f"{folder}: contains the scores of an evaluation; choose another --run.name")
        message(f"{folder}: already finished; choose another --run.name for a new run")
        return folder
    compare_checksums(recipe.data)
    read_hiding(recipe.report)  # refuse an unusable detector before training, not after it
    state("checking the machines and the recipe")
    workers = Workers(recipe.compute, validators=recipe.compute.validators)
    recipe, gpu_bytes = precision_and_memory(recipe, workers)
    run_task(check_start, recipe, shards, workers, gpu_bytes)
    folder.write(CONFIG_FILE, write_config(recipe).encode())
    message(f"run {recipe.run.name} under {folder}, {workers}")
    events = WorkerEvents(recipe.compute.max_failures)
    trainer = make_trainer(recipe, shards, workers, guard=guard, callbacks=[events])
    note_kept("data", f"the shards under {shards}")
    note_kept("run", f"the run under {folder}")
    state(f"starting {workers}")
    with message_if_silent(WAITING_SECONDS, lambda: _waiting(workers)):
        run_stoppable(lambda: fit(trainer, folder), guard.request_end.remote, "a last checkpoint")
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
    """The Ray Train run of a recipe; the same storage and name resume it.

    Args:
        shards: place of the finished shards.
        guard: forwards requests to stop, see :mod:`ray_jobs.training.guard`.
        score_test: whether to score the test set at the end.
        shown: whether the driver shows the workers' news.
    """
    compute = recipe.compute
    # A process that is suspended (SIGSTOP) cannot notice that it hangs.
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(compute.hang_seconds)
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")  # for Ray's cleaner, which might look at another cluster
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
        InputError: the run failed; the message has the reason.
        EndedOnRequestError: it was asked to stop.
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
    """How a worker ended; with neither field set, it finished."""

    problem: str | None = None
    """An input error."""
    ended: str | None = None
    """The position at which the run was stopped on request."""


def _waiting(workers: Workers) -> str:
    release_orphans()
    free = ray.available_resources()  # type: ignore[no-untyped-call]
    room = ", ".join(f"{free.get(kind, 0):g} {kind}s" for kind in ("CPU", *(("GPU",) if workers.use_gpu else ())))
    return (
        f"no worker is ready after {WAITING_SECONDS:.0f} s; workers wait until the cluster has room, free now: {room}"
    )


def _train_worker(config: dict[str, Any]) -> WorkerOutcome:
    from ray_jobs.training.worker import train_worker  # takes seconds; only for workers

    return train_worker(config)


def check_start(recipe: Recipe, shards: str, workers: Workers, gpu_bytes: int | None) -> None:
    """:func:`ray_jobs.training.worker.check_start` as a task on the cluster."""
    from ray_jobs.training.worker import check_start

    check_start(recipe, shards, workers, gpu_bytes)


def _failure(error: TrainingFailedError, folder: StorageFolder) -> str:
    """The first cause in one message; the traceback is in Ray's logs."""
    causes = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else [error]
    inputs = [cause for cause in causes if isinstance(cause, InputError)]
    cause = (inputs or causes)[0]
    text = str(cause) if inputs else str(cause).strip().splitlines()[-1]
    return (
        f"run {folder} failed: {text}\nRun the same command to resume from the last checkpoint. The workers' output is "
        f"in Ray's logs on their nodes: {logs_folder()}"
    )
