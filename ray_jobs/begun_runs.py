"""Resuming an earlier run, which requires the same settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ccvid.config import Recipe
from ccvid.run_files import CONFIG_FILE
from data_tools.documents import parse_yaml
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from data_tools.wording import cut, shown

FREE_SETTINGS = (
    "run",
    "compute",
    "loader",
    "data.cache",
    "data.verify_checksums",
    "train.log_every_seconds",
    "train.checkpoint_every_",
    "train.checkpoints_kept",
)
"""Prefixes of settings that may change on resume: with the same world size, they do not affect the result."""

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
    recipe = keep_found_precision(recipe, found)
    reason = "holds a run with other settings; choose another --run.name or remove it"
    refuse_changes(folder, reason, changed_settings(found, recipe.model_dump(mode="json"), FREE_SETTINGS))
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
        lines = "\n".join([*changes[:MOST_CHANGES], *more])
        raise InputError(f"{folder}: {reason}\n{lines}")


def changed_settings(there: object, now: object, free: tuple[str, ...] = (), place: str = "") -> list[str]:
    """A line for each setting that differs, except those whose names start with one of ``free``."""
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        return [
            line
            for name in dict.fromkeys([*there, *now])
            for line in changed_settings(there.get(name), now.get(name), free, f"{place}.{name}".lstrip("."))
        ]
    if there == now or (free and place.startswith(free)):
        return []
    return [f"  {cut(place, 100)}: {shown(there)} there, {shown(now)} now"]
