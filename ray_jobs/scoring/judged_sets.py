"""The data sets of a referee, as the command line names them, each as the recipe with which it is scored."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from ccvid.config import Recipe
from data_tools.manifest import MANIFEST_NAME, read_manifest
from ray_jobs.cli import UsageError, place_flag, recipe_names
from ray_jobs.recipe_flags import nearest

Parse = Callable[..., tuple[Recipe, argparse.Namespace]]
"""Parses the command line with further arguments behind it."""


def judged_sets(named: Sequence[str], recipe: Recipe, parse: Parse) -> dict[str, Recipe]:
    """A recipe for each data set, by a short name; without ``named`` ones the command line's own.

    Raises:
        UsageError: one is neither a recipe nor finished shards, its recipe is wrong, or two have one name.
    """
    if not named:
        return {recipe.data.kind: recipe}
    found: dict[str, Recipe] = {}
    for text in named:
        name, own = _judged_set(text, recipe, parse)
        if name in found:
            raise UsageError(f"--datasets {text}: a second data set of the name {name!r}")
        found[name] = own
    return found


def _judged_set(text: str, recipe: Recipe, parse: Parse) -> tuple[str, Recipe]:
    source, _, shards = text.partition("=")
    if source not in recipe_names() and not source.endswith((".yaml", ".yml")):
        return text.rstrip("/").rpartition("/")[2], _of_shards(text, recipe)
    try:
        own, _ = parse("--recipe", source, *(["--data.shards", shards] if shards else []))
    except UsageError as error:
        hint = "" if shards else f"; {source}=SHARDS names finished shards"
        raise UsageError(f"--datasets {text}: {error}{hint}") from None
    return Path(source).stem, own


def _of_shards(text: str, recipe: Recipe) -> Recipe:
    """The recipe with finished shards as its data."""
    names = recipe_names()
    try:
        shards = place_flag(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--datasets {text}: {error}") from None
    if not shards.exists(MANIFEST_NAME):
        raise UsageError(
            f"--datasets {text}: neither a recipe nor a folder with finished shards ({MANIFEST_NAME}); recipes: "
            f"{', '.join(names)}{nearest(text, names)}"
        )
    manifest = read_manifest(shards)
    frames = recipe.data.frames.model_copy(update={"format": manifest.storage})
    own = {"kind": manifest.dataset, "shards": str(shards), "frames": frames}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=own)})
