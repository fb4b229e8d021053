"""Shards made in this process, for tests and benchmarks."""

from __future__ import annotations

from pathlib import Path

from data_tools.datasets.problems import Dataset
from data_tools.manifest import Manifest
from data_tools.shard_plan import ShardOptions, plan_shards
from data_tools.shard_writer import finish_shards, prepare_folder, write_shard
from data_tools.storage import StorageFolder


def make_shards(dataset: Dataset, place: Path | str, options: ShardOptions) -> Manifest:
    """Shard a data set into a folder without a finished one."""
    folder, plans = StorageFolder(str(place)), plan_shards(dataset.tracklets, options)
    assert prepare_folder(plans, folder) is None
    records = [write_shard(plan, folder, options) for plan in plans]
    return finish_shards(dataset, plans, records, folder, options)
