"""A recipe whose weights come from another recipe, which is trained before it by the same command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from ccvid.config import Recipe
from ccvid.run_files import WEIGHTS_FILE
from ccvid.trained_model import find_checkpoint
from data_tools.documents import first_problem
from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.storage import StorageFolder
from ray_jobs.cli import read_recipe

SHARED_SECTIONS = ("run", "data", "loader", "report", "compute")
"""What both stages have in common, besides seed and precision."""


def after_first_stage(recipe: Recipe, train: Callable[[Recipe], StorageFolder]) -> Recipe:
    """Train the first stage, or find that it is trained; return the recipe that starts from its weights.

    Args:
        train: runs or resumes a recipe to its end, and returns its folder.

    Raises:
        InputError: the first stage's recipe cannot be used.
    """
    if recipe.train.first_stage is None:
        return recipe
    first = first_stage_of(recipe)
    message(f"stage 1 of 2: {recipe.train.first_stage}, as run {first.run.name}")
    weights = find_checkpoint(train(first)) / WEIGHTS_FILE
    message(f"stage 2 of 2: run {recipe.run.name}, from {weights}")
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"weights": str(weights)})})


def first_stage_of(recipe: Recipe) -> Recipe:
    """The recipe of the first stage, with data, place, workers, seed and precision of the second.

    Raises:
        InputError: there is none of this name, or it has a value that is not allowed, or a first stage of its own.
    """
    name = recipe.train.first_stage
    assert name is not None
    values: dict[str, Any] = {**read_recipe(name), **{key: getattr(recipe, key) for key in SHARED_SECTIONS}}
    values["run"] = recipe.run.model_copy(update={"name": f"{recipe.run.name}-stage1"})
    values["train"] = {**values.get("train", {}), "seed": recipe.train.seed, "bf16": recipe.train.bf16}
    if not values["train"].get("held_out_share"):  # validators would have nothing to do
        values["compute"] = recipe.compute.model_copy(update={"validators": 0})
    try:
        first = Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(f"train.first_stage {name}: {first_problem(error)}") from None
    if first.train.first_stage is not None:
        raise InputError(f"train.first_stage {name}: has a first stage of its own ({first.train.first_stage})")
    return first
