"""The code of a training run's workers, and the checks made for them before the start."""

from __future__ import annotations

from typing import Any

from ccvid.config import Recipe
from ccvid.trained_model import configured_backbone
from ccvid.training.mlflow_sink import check_mlflow
from ccvid.training.run import train_and_score
from ccvid.training.split import split_for
from ccvid.training.stopping import EndedOnRequestError, StoppedTogetherError
from data_tools.cpus import limit_threads
from data_tools.errors import InputError
from data_tools.identity_sampler import PkSampler
from data_tools.shard_cache import open_shards
from ray_jobs.cluster.workers import Workers
from ray_jobs.training.gauges import metric_sinks
from ray_jobs.training.memory import check_memory
from ray_jobs.training.ray_context import RayRun
from ray_jobs.training.run import WorkerOutcome


def check_start(recipe: Recipe, shards: str, workers: Workers, gpu_bytes: int | None) -> None:
    """Find input errors before the start, on a node of the cluster, instead of in every worker.

    Args:
        gpu_bytes: Memory of the smallest GPU; None: the workers have none.

    Raises:
        InputError, BackboneError: the recipe or the data cannot be used.
    """
    if recipe.run.mlflow is not None:
        check_mlflow(recipe.run.mlflow)
    store = open_shards(shards, recipe.data.cache)
    configured_backbone(recipe.model, recipe.clip)
    split = split_for(recipe, store)
    items = split.items
    counts = workers.wanted if isinstance(workers.wanted, tuple) else (workers.wanted,)
    for count in counts:
        PkSampler(items.person_I, recipe.batch, world_size=count, seed=recipe.train.seed, clothes_I=items.clothes_I)
    if gpu_bytes is not None:
        check_memory(recipe, len(split.persons), len(split.clothes), workers=max(counts), gpu_bytes=gpu_bytes)


def train_worker(config: dict[str, Any]) -> WorkerOutcome:
    """The function that every Ray Train worker runs."""
    recipe = Recipe.model_validate(config["recipe"])
    recipe = recipe.within(limit_threads(config["cpus"]))
    place = recipe, config["shards"], config["guard"]
    with RayRun.of(*place, cpus=config["cpus"], shown=config["shown"]) as run:
        try:
            store = open_shards(config["shards"], recipe.data.cache)
            with metric_sinks(recipe, run, store.manifest.dataset) as run.sinks:
                train_and_score(recipe, run, store, score_test=config["score_test"])
        except EndedOnRequestError as error:
            return WorkerOutcome(ended=str(error))
        except StoppedTogetherError as error:
            return WorkerOutcome(problem=str(error))
        except InputError as error:
            if run.world_size > 1:  # the other workers wait for this one, so the whole group must end
                raise
            return WorkerOutcome(problem=str(error))
    return WorkerOutcome()
