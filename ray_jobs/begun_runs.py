"""Resuming an earlier run, which requires the same settings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from pydantic import ValidationError

from ccvid.config import Recipe
from ccvid.run_files import CONFIG_FILE
from data_tools.documents import differences, parse_yaml
from data_tools.errors import InputError
from data_tools.options import fields_that_may_change
from data_tools.storage import StorageFolder
from ray_jobs.recipe_flags import by_todays_names

MAY_CHANGE = frozenset(fields_that_may_change(Recipe))
"""The settings, and sections of them, that may differ when a run resumes."""

MOST_CHANGES = 50
"""Most changes listed in a message."""


def as_begun(folder: StorageFolder, recipe: Recipe) -> Recipe:
    """The recipe, with the precision chosen for the run in ``folder``, if there is one.

    Raises:
        InputError: the folder holds a run with other settings, or its settings cannot be read.
    """
    try:
        found = parse_yaml(folder.read(CONFIG_FILE), folder / CONFIG_FILE)
    except FileNotFoundError:
        return recipe
    if isinstance(found, dict):  # by today's names, and with today's defaults of what was not there then
        with suppress(ValidationError, InputError):
            found = Recipe.model_validate(by_todays_names(found)).model_dump(mode="json")
    recipe = keep_found_precision(recipe, found)
    reason = "holds a run with other settings; choose another --run.name or remove it"
    refuse_changes(folder, reason, differences(found, recipe.model_dump(mode="json"), MAY_CHANGE))
    return recipe


def keep_found_precision(recipe: Recipe, found: object) -> Recipe:
    """The recipe with the precision of the settings ``found``, if the recipe says auto and ``found`` is definite."""
    train = found.get("train") if isinstance(found, dict) else None
    bf16 = train.get("bf16") if isinstance(train, dict) else None
    return recipe.with_bf16(bf16) if recipe.train.bf16 == "auto" and isinstance(bf16, bool) else recipe


def refuse_changes(folder: StorageFolder, reason: str, changes: Sequence[str]) -> None:
    """Raise ``InputError`` with ``reason`` and the list of changes, if there are any."""
    if changes:
        more = [f"  … and {len(changes) - MOST_CHANGES} more"] if len(changes) > MOST_CHANGES else []
        lines = "\n".join([*(f"  {change}" for change in changes[:MOST_CHANGES]), *more])
        raise InputError(f"{folder}: {reason}\n{lines}")
