"""A complete search: checks, the run with Ray Tune, and the results."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray import tune

from ccvid.config import Recipe
from ccvid.run_files import CONFIG_FILE
from ccvid.training.stopping import EndedOnRequestError
from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.storage import StorageFolder
from ray_jobs.begun_runs import MAY_CHANGE
from ray_jobs.cli import UsageError
from ray_jobs.cluster.machines import precision_and_memory
from ray_jobs.cluster.tasks import run_task
from ray_jobs.cluster.workers import Workers
from ray_jobs.sharding.shards import compare_checksums, ensure_shards
from ray_jobs.training.guard import claim, run_stoppable
from ray_jobs.training.run import check_start
from ray_jobs.tuning.callbacks import Notes, RecordedAsha, TrialSource
from ray_jobs.tuning.propose import SearcherName
from ray_jobs.tuning.records import SearchRecords
from ray_jobs.tuning.results import show_results, write_results
from ray_jobs.tuning.room import Room, find_room
from ray_jobs.tuning.space import Space
from ray_jobs.tuning.tables import RunningTable
from ray_jobs.tuning.trial import TrialJob, TrialRun

SchedulerName = Literal["asha", "none"]

TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints even if it should be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the records and each run's files contain more
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a checkpoint within an epoch is reported without a score
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

ON_HEAD = {"node:__internal_head__": 0.001}
"""Resources of a trial's own process: no CPU, because it would wait for CPUs that its workers hold, and vice versa."""

LONGEST_NAME = 95
"""Leaves room for the suffix of best.yaml's run, NAME-best."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Options of a search."""

    trials: int | None
    """Total number. Default: every setting of the space."""
    searcher: SearcherName
    scheduler: SchedulerName
    concurrency: int | None
    """Concurrent trials. Default: as many as fit."""
    grace: int | None
    """Epochs before ASHA stops a trial. Default: :func:`default_grace`."""
    reduction: float
    """ASHA's reduction factor: one of this many trials continues from each rung."""


def check_search(recipe: Recipe, space: Space, options: SearchOptions) -> tuple[int, int]:
    """Check everything that needs neither cluster nor data; returns the number of trials and ASHA's grace.

    Raises:
        UsageError: a flag is wrong; names it.
    """
    train = recipe.train
    if train.held_out_share == 0:
        raise UsageError("--train.held_out_share is 0, but trials are compared on held-out identities; try 0.1")
    if train.first_stage is not None:
        raise UsageError(
            f"--train.first_stage {train.first_stage}: a search trains one stage; train that recipe first, then search "
            "with --train.first_stage none --model.weights FILE"
        )
    if isinstance(recipe.compute.workers, tuple):
        raise UsageError("--compute.workers: expected a fixed number, so that trials can be compared")
    if len(recipe.run.name) > LONGEST_NAME:
        raise UsageError(f"--run.name: {len(recipe.run.name)} characters, expected at most {LONGEST_NAME} for a search")
    count = space.count
    if options.searcher == "grid" and count is None:
        raise UsageError(
            "--searcher grid: the space has ranges of floats; list choices instead, or use optuna or random"
        )
    if options.trials is None and count is None:
        raise UsageError("--trials is missing; it is needed, because the space has ranges of floats")
    trials = min(each for each in (options.trials, count) if each is not None)
    grace = options.grace or default_grace(recipe, space)
    epochs = _epochs(recipe, space)
    if options.scheduler == "asha" and grace >= epochs:
        raise UsageError(f"--grace {grace}: ASHA cannot stop trials of {epochs} epochs; lower it, or --scheduler none")
    return trials, grace


def default_grace(recipe: Recipe, space: Space) -> int:
    """A ninth of the epochs, but at least one epoch with CAL's losses, rounded up to a validation before the last."""
    least = -(-_epochs(recipe, space) // 9)
    if recipe.method.uses_clothes:
        start = int(space.largest("method.start_epoch", recipe.method.start_epoch))
        if start < recipe.train.epochs:
            least = max(least, start + 1)
    every, epochs = recipe.train.validate_every, _epochs(recipe, space)
    return min(-(-least // every) * every, max(1, epochs - 1) // every * every or epochs)


def search(recipe: Recipe, space: Space, options: SearchOptions) -> None:
    """Run or resume a search to its end, and print its results.

    Raises:
        UsageError: as :func:`check_search`.
        InputError: the data, the cluster or the run folder does not allow it, or every trial failed.
        EndedOnRequestError: a signal asked it to stop.
        OSError: the run folder cannot be written.
    """
    count, grace = check_search(recipe, space, options)
    folder = StorageFolder(recipe.run.storage) / recipe.run.name
    guard = claim(str(folder))
    if folder.exists(CONFIG_FILE):
        raise InputError(f"{folder}: contains a training run; choose another --run.name")
    records = SearchRecords(folder, _settings(recipe, space, options, grace), space)
    room = find_room(recipe.compute, _nodes(), concurrency=options.concurrency, trials=count)
    decided = records.with_precision(recipe.model_copy(update={"compute": room.compute}))
    source = TrialSource(records, decided, space, options.searcher, count)
    if source.left == 0:
        message(f"{folder}: already finished; raise --trials to continue it, or choose another --run.name")
    if source.left > 0:
        shards = ensure_shards(recipe.data)
        compare_checksums(recipe.data)
        workers = Workers(room.compute, validators=room.compute.validators)
        decided, gpu_bytes = precision_and_memory(decided, workers)
        records.keep_precision(decided)
        run_task(check_start, decided, shards, workers, gpu_bytes)
        records.save()
        message(f"search {recipe.run.name} under {folder}, {source.left} of {count} trials to do, {room}")
        job = TrialJob(decided, str(shards), folder / "trials", guard)
        scheduler = None
        if options.scheduler == "asha":
            epochs = _epochs(recipe, space)
            message(f"ASHA: no trial stops before epoch {grace}; one of {options.reduction:g} continues from each rung")
            scheduler = RecordedAsha(records, recipe.train, grace=grace, reduction=options.reduction, epochs=epochs)
        run_stoppable(
            lambda: _tune(job, records, source, scheduler, room, count), guard.request_end.remote, "a last checkpoint"
        )
        if source.ending:
            raise EndedOnRequestError(f"search {recipe.run.name} stopped on request")
    write_results(records, decided, space)
    show_results(records, decided)


def _tune(
    job: TrialJob,
    records: SearchRecords,
    source: TrialSource,
    scheduler: RecordedAsha | None,
    room: Room,
    count: int,
) -> None:
    os.environ.update(TUNE_ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    recipe = job.recipe
    table = RunningTable(records, recipe.train, name=recipe.run.name, count=count, at_once=room.trials)
    notes = Notes(records, source, table.show)
    trainable: Any = tune.with_resources(tune.with_parameters(TrialRun, job=job), ON_HEAD)
    # Tune's state does not include ASHA's, so a search resumes from the records alone, and this folder is temporary.
    with tempfile.TemporaryDirectory(prefix="ccvid-tune-") as temporary:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=source,
                scheduler=scheduler,
                num_samples=source.left,
                max_concurrent_trials=room.trials,
                # A reused actor would not be asked to clean up.
                reuse_actors=False,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=temporary,
                callbacks=[notes],
                # Ray Train keeps the checkpoints; by default, Tune asks a class for one at the end.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except Exception:
            if notes.problem is not None:
                raise notes.problem from None
            raise


def _name(trial: Any) -> str:
    return str(trial.config["name"])


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _epochs(recipe: Recipe, space: Space) -> int:
    return int(space.largest("train.epochs", recipe.train.epochs))


def _settings(recipe: Recipe, space: Space, options: SearchOptions, grace: int) -> dict[str, Any]:
    """Settings that must not change when a search is resumed; the number of trials and the concurrency may."""
    searched = {parameter.name for parameter in space.parameters}
    fixed = {name: value for name, value in _flat(recipe.model_dump(mode="json")) if name not in searched}
    asha = {"grace": grace, "reduction": options.reduction} if options.scheduler == "asha" else {}
    return {
        "recipe": {**fixed, "compute.workers": recipe.compute.workers or 1},
        "space": space.describe(),
        "searcher": options.searcher,
        "scheduler": options.scheduler,
        **asha,
    }


def _flat(values: dict[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """The settings that may not change, each with its dotted name."""
    for name, value in values.items():
        if f"{place}{name}" in MAY_CHANGE:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{place}{name}.")
        else:
            yield f"{place}{name}", value
