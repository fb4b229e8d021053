"""Shared fixtures: a tiny clothes-changing data set, and Ray kept to itself."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from data_tools.datasets.checks import check_dataset
from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.shard_plan import ShardOptions
from data_tools.walkers import WalkerOptions, render_walkers
from tests.chance import SEED_VARIABLE, kill_seed
from tests.made_shards import make_shards
from tests.s3_server import S3Server

torch.set_num_threads(1)
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("any machine")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

TINY_WALKERS = WalkerOptions(
    train_people=6, test_people=4, outfits=2, test_outfits=2, cameras=2, tracklets=2, test_tracklets=2, frames=6
)


DURATIONS = Path(__file__).parent / "durations.json"
"""Measured seconds of each test file: the longest start first, so that all workers end together."""
UNKNOWN_SECONDS = 30.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-durations",
        action="store_true",
        help=f"write what each file took to {DURATIONS.name}, where it stands with less or not at all",
    )


def pytest_configure() -> None:
    kill_seed()  # before pytest's workers start, which inherit it


def pytest_report_header() -> str:
    return f"kill moments are drawn from {SEED_VARIABLE}={kill_seed()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seconds = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
    files = {_file_of(item.nodeid): None for item in items}
    order = sorted(files, key=lambda file: -seconds.get(file, UNKNOWN_SECONDS))
    places = {file: place for place, file in enumerate(order)}
    items.sort(key=lambda item: places[_file_of(item.nodeid)])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Report how long each worker was busy, and which tests lacked a requirement."""
    reports = [report for group in terminalreporter.stats.values() for report in group if hasattr(report, "duration")]
    busy: dict[str, float] = defaultdict(float)
    seconds: dict[str, float] = defaultdict(float)
    for report in reports:
        busy[getattr(report, "worker_id", "pytest")] += report.duration
        seconds[_file_of(report.nodeid)] += report.duration
    output = ", ".join(f"{worker} {spent:.0f} s" for worker, spent in sorted(busy.items()))
    terminalreporter.write_line(f"busy: {output}; {SEED_VARIABLE}={kill_seed()}")
    if any("chromium or chromedriver" in str(report.longrepr) for report in terminalreporter.stats.get("skipped", ())):
        terminalreporter.write_line(
            "The pages of the report were not tested, for want of a browser: apt-get install chromium chromium-driver"
        )
    if config.getoption("--record-durations"):
        known = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
        # A partial run must not make the other files look short.
        most = {file: max(known.get(file, 0), round(seconds.get(file, 0), 1)) for file in sorted({*known, *seconds})}
        DURATIONS.write_text(json.dumps(most, indent=0) + "\n")


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


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
    """Ten walkers in two outfits each, seen by two cameras, as shards; do not write to it."""
    return make_tiny_shards(tmp_path_factory.mktemp("walkers"))


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    """One S3 server for all tests; use ``s3``."""
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The S3 server, which this process's environment names; refusals requested by a test end with the test."""
    for name, value in s3_process.environment.items():
        monkeypatch.setenv(name, value)
    yield s3_process
    s3_process.accept()
    s3_process.delay_reads(0)
