"""Reading the tracklets of the recipe's data section."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ccvid.config import DataOptions
from data_tools.datasets.checks import check_dataset
from data_tools.datasets.clip_folder import read_clip_folder
from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.problems import Dataset, list_problems
from data_tools.datasets.released import RELEASED_SETS
from data_tools.errors import InputError, UnreadableSourceError
from data_tools.progress import message
from data_tools.storage import StorageFolder
from data_tools.video import FrameTable
from ray_jobs.sharding.frame_tables import make_tables

MOST_PROBLEMS_SHOWN = 50
OptionT = TypeVar("OptionT")


def shard_folder(data: DataOptions) -> StorageFolder:
    """The folder of the recipe's shards. Default: a folder per storage mode."""
    return StorageFolder(data.shards or str(_default_folder(data)))


def walker_folder(data: DataOptions) -> Path:
    """The folder of the walkers' videos: beside their shards, or in the user's data folder if these are remote."""
    shards = shard_folder(data)
    if shards.local is not None:
        return shards.local.with_name(f"{shards.name}-videos")
    place = hashlib.sha256(str(shards).encode()).hexdigest()[:8]  # distinguishes places with the same name
    return _default_folder(data).with_name(f"{shards.name}-{place}-videos")


def _default_folder(data: DataOptions) -> Path:
    mode = data.frames.format
    return Path("~/ccvid/data").expanduser() / (data.kind if mode == "jpeg" else f"{data.kind}-{mode}")


def read_dataset(data: DataOptions) -> Dataset:
    """Read and check the recipe's data set; every problem is printed.

    Raises:
        InputError: the data set has errors; all of them in one message.
    """

    def tables(videos: Sequence[Path]) -> list[FrameTable | UnreadableSourceError]:
        return make_tables(videos, shard_folder(data), data.frames.hang_seconds)

    own_readers: dict[str, Callable[[], Dataset]] = {
        "synthetic": lambda: read_footage(_walker_footage(walker_folder(data)), tables),
        "footage": lambda: read_footage(_named(data.footage, "footage.videos"), tables),
        "clips": lambda: read_clip_folder(_named(data.clips, "clips.folder")),
    }
    if data.kind in own_readers:
        dataset = check_dataset(own_readers[data.kind]())
    else:
        dataset = check_dataset(RELEASED_SETS[data.kind].read(_named(data.root, "root"), data.released()))
    dataset.raise_on_errors(most=MOST_PROBLEMS_SHOWN)
    findings = list_problems(dataset.problems, MOST_PROBLEMS_SHOWN)
    if not dataset.tracklets:
        raise InputError(f"data set {dataset.name}: no usable tracklets\n{findings}".rstrip())
    if dataset.problems:
        message(f"{data.kind}: {len(dataset.problems)} problem(s)\n{findings}")
    return Dataset(data.kind, dataset.tracklets, dataset.problems)


def _walker_footage(folder: Path) -> FootageOptions:
    return FootageOptions(
        videos=folder / "videos", tracks=folder / "tracks", labels=folder / "labels.csv", first_frame=1
    )


def _named(option: OptionT | None, flag: str) -> OptionT:
    if option is None:
        raise InputError(f"no finished shards, and no sources to make them from; set --data.{flag}")
    return option
