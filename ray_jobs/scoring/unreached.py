"""Copies of what is forgotten that lie where the command does not go, by name as far as it knows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from ccvid.config import Recipe
from ccvid.retrieval.embedding.store import SOURCES_FILE, STORE_FILE, read_store
from ccvid.run_files import CONFIG_FILE, METRICS_FILE
from data_tools.documents import parse_json, parse_yaml
from data_tools.errors import InputError
from data_tools.options import Options
from data_tools.storage import StorageFolder
from ray_jobs.recipe_flags import by_todays_names
from ray_jobs.scoring.kept_data import Places
from ray_jobs.sharding.sources import shard_folder


class Unreached(Options):
    """Something that may hold a copy."""

    what: str
    place: str


def unreached(recipe: Recipe, places: Places, missing: Sequence[str]) -> list[Unreached]:
    """All of them; ``missing`` are shards of the gallery that are no longer where it says."""
    data = recipe.data
    sources = [data.root, data.footage and data.footage.videos, data.clips and data.clips.folder]
    named = ", ".join(str(source) for source in sources if source is not None)
    found = [
        ("videos or pictures that the shards were made from, never touched", named or "where they were when sharded"),
        *(("shards that are no longer where the gallery says", place) for place in missing),
        *_other_runs(recipe, places),
    ]
    folders = [places.results, places.gallery.folder, *places.shards]
    found += [
        ("earlier versions of objects, if the bucket keeps them", str(folder))
        for folder in folders
        if folder.local is None
    ]
    found += [
        ("backups, snapshots and copies made by hand", ", ".join(map(str, folders))),
        ("models exported from the runs above, and what was computed elsewhere", "where they were taken to"),
        ("caches of nodes that are not in the cluster now", "dropped when they next open the shards"),
        ("logs of Ray and what this and other commands have printed", "on the machines that ran them"),
        ("temporary files of killed processes (ccvid-*)", "the folder for temporary files of each machine"),
    ]
    return [Unreached(what=what, place=place) for what, place in found]


def _other_runs(recipe: Recipe, places: Places) -> Iterator[tuple[str, str]]:
    """Runs in the same storage that have used these shards."""
    storage = StorageFolder(recipe.run.storage, recipe.run.patience_seconds)
    shards = {str(folder) for folder in places.shards}
    for name in storage.names():
        run = storage / name
        if run != places.results and _trained_on(run) in shards:
            yield "weights trained on these shards, and the results of that run", str(run)
        elif run != places.results and _scored_on(run) in shards:
            yield "embeddings, pages and pictures of an evaluation", str(run)
        gallery = run / "gallery"
        if gallery != places.gallery.folder and _has_gallery_of(gallery, shards):
            yield "another gallery of these shards, and its matches; run this with --gallery", str(gallery)


def _trained_on(run: StorageFolder) -> str | None:
    try:
        values = parse_yaml(run.read(CONFIG_FILE), run / CONFIG_FILE)
        return str(shard_folder(Recipe.model_validate(by_todays_names(values)).data))
    except (FileNotFoundError, NotADirectoryError, InputError, ValidationError, TypeError):
        return None


def _scored_on(run: StorageFolder) -> str | None:
    try:
        facts = parse_json(run.read(METRICS_FILE), run / METRICS_FILE)
    except (FileNotFoundError, NotADirectoryError, InputError):
        return None
    return facts.get("shards") if isinstance(facts, dict) else None


def _has_gallery_of(gallery: StorageFolder, shards: set[str]) -> bool:
    try:
        names = gallery.names()
        return {STORE_FILE, SOURCES_FILE} <= {*names} and not shards.isdisjoint(read_store(gallery).sources())
    except (NotADirectoryError, InputError):
        return False
