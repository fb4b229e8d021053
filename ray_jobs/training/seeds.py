"""Running a recipe with several seeds, one run after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from ccvid.config import Recipe
from ccvid.run_files import METRICS_FILE
from ccvid.training.seeds import SEEDS_FILE, SeedSummary, read_seed_metrics, write_seeds
from data_tools.documents import first_problem
from data_tools.progress import message
from data_tools.storage import StorageFolder
from ray_jobs.cli import UsageError


def seed_recipes(recipe: Recipe, count: int) -> list[Recipe]:
    """The recipe with its seed and the following ones, as runs NAME-seed1, NAME-seed2, …

    Raises:
        UsageError: a seed becomes too large or a run's name too long.
    """
    values = recipe.model_dump()
    recipes = []
    for seed in range(recipe.train.seed, recipe.train.seed + count):
        run, train = {"name": f"{recipe.run.name}-seed{seed}"}, {"seed": seed}
        changed = {**values, "run": {**values["run"], **run}, "train": {**values["train"], **train}}
        try:
            recipes.append(Recipe.model_validate(changed))
        except ValidationError as error:
            raise UsageError(f"--seeds {count}: run {run['name']}: {first_problem(error)}") from None
    return recipes


def train_seeds(recipe: Recipe, count: int, train: Callable[[Recipe], StorageFolder]) -> StorageFolder:
    """Train ``count`` seeds with ``train``, which skips finished runs and returns the run's folder.

    Returns:
        storage/NAME, where seeds.json and seeds.txt summarise all runs.

    Raises:
        UsageError: as :func:`seed_recipes`; otherwise whatever ``train`` raises.
        InputError: a run has no test scores.
    """
    metrics: dict[int, dict[str, Any]] = {}
    for seeded in seed_recipes(recipe, count):
        seed = seeded.train.seed
        message(f"seed {seed}, {len(metrics) + 1} of {count}")
        with train(seeded).fetched(METRICS_FILE) as path:
            metrics[seed] = read_seed_metrics(path)
    folder = StorageFolder(recipe.run.storage, recipe.run.patience_seconds) / recipe.run.name
    with folder.filled(last=SEEDS_FILE) as path:
        message(write_seeds(SeedSummary.of(metrics), path, title=recipe.run.name))
    return folder
