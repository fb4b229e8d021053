"""What several packages' tests share: a tiny clothes-changing data set, and Ray kept to itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from data_tools.datasets.checks import check_dataset
from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.shard_plan import ShardOptions, plan_shards
from data_tools.shard_writer import finish_shards, prepare_folder, write_shard
from data_tools.walkers import WalkerOptions, render_walkers

torch.set_num_threads(1)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

TINY_WALKERS = WalkerOptions(
    train_people=6, test_people=4, outfits=2, test_outfits=2, cameras=2, tracklets=2, test_tracklets=2, frames=6
)


def make_tiny_shards(folder: Path) -> Path:
    """Shards of ``TINY_WALKERS`` at 32x16 under ``folder``; returns their folder."""
    videos, shards = folder / "tiny-videos", folder / "tiny"
    render_walkers(TINY_WALKERS, videos, workers=1)
    footage = FootageOptions(
        videos=videos / "videos", tracks=videos / "tracks", labels=videos / "labels.csv", minimum_length=1
    )
    dataset = check_dataset(read_footage(footage))
    dataset.raise_on_errors()
    options = ShardOptions(height=32, width=16, shard_mebibytes=0.05)
    plans = plan_shards(dataset.tracklets, options)
    prepare_folder(plans, shards)
    finish_shards(dataset, plans, [write_shard(plan, shards, options) for plan in plans], shards, options)
    return shards


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten walkers in two outfits each before two cameras, as shards; do not write to it."""
    return make_tiny_shards(tmp_path_factory.mktemp("walkers"))
