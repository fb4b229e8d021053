"""What several packages' tests share: a tiny clothes-changing data set, and Ray kept to itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from xdist.scheduler import LoadFileScheduling

from data_tools.datasets.checks import check_dataset
from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.shard_plan import ShardOptions
from data_tools.walkers import WalkerOptions, render_walkers
from tests.made_shards import make_shards
from tests.s3_server import S3Server

torch.set_num_threads(1)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

TINY_WALKERS = WalkerOptions(
    train_people=6, test_people=4, outfits=2, test_outfits=2, cameras=2, tracklets=2, test_tracklets=2, frames=6
)


class JobsApart(LoadFileScheduling):  # type: ignore[misc]
    """All of tests/jobs, which start clusters and kill things, on one of pytest's workers, the rest on the other."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/jobs" if nodeid.startswith("tests/jobs/") else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> JobsApart:
    return JobsApart(config, log)


def make_tiny_shards(folder: Path) -> Path:
    """Shards of ``TINY_WALKERS`` at 32x16 under ``folder``; returns their folder."""
    videos, shards = folder / "tiny-videos", folder / "tiny"
    render_walkers(TINY_WALKERS, videos, workers=1)
    footage = FootageOptions(
        videos=videos / "videos", tracks=videos / "tracks", labels=videos / "labels.csv", minimum_length=1
    )
    dataset = check_dataset(read_footage(footage))
    dataset.raise_on_errors()
    make_shards(dataset, shards, ShardOptions(height=32, width=16, shard_mebibytes=0.05))
    return shards


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten walkers in two outfits each before two cameras, as shards; do not write to it."""
    return make_tiny_shards(tmp_path_factory.mktemp("walkers"))


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    """One S3 server for all tests; take ``s3``."""
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The S3 server, which this process's environment names; what a test made it refuse ends with the test."""
    for name, value in s3_process.environment.items():
        monkeypatch.setenv(name, value)
    yield s3_process
    s3_process.accept()
    s3_process.delay_reads(0)
