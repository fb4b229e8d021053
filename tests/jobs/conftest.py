"""One Ray head for all tests of jobs that run in one pytest worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml

from tests.jobs.head import Head
from tests.s3_server import S3Server


@pytest.fixture(scope="session")
def head(s3_process: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A cluster of two CPUs on this machine, whose processes find the S3 server. Leave it unchanged."""
    settings = s3_process.environment | {"RAY_metrics_report_interval_ms": "2000"}
    cluster = Head(tmp_path_factory.mktemp("head"), settings=settings)
    yield cluster
    cluster.stop()


@pytest.fixture(autouse=True)
def no_cluster_of_this_process() -> Iterator[None]:
    """A cluster started in pytest's own process would take the CPUs from all later tests."""
    yield
    assert not ray.is_initialized()


@pytest.fixture
def tiny_recipe(tmp_path: Path, tiny_shards: Path) -> Path:
    """A recipe file for the tiny shards: seconds of training, runs under ``tmp_path / "runs"``."""
    return write_tiny_recipe(tmp_path, tiny_shards)


def write_tiny_recipe(folder: Path, shards: Path) -> Path:
    """``folder / "tiny.yaml"``; its runs go to ``folder / "runs"``."""
    path = folder / "tiny.yaml"
    values = {
        "run": {"name": "tiny", "storage": str(folder / "runs")},
        "data": {"kind": "footage", "shards": str(shards)},
        "clip": {"length": 2, "stride": 2, "piece": 0},
        "batch": {"identities": 3, "clips": 2},
        "model": {"backbone": "c2d_resnet18_slim", "weights": "random", "height": 32, "width": 16},
        "method": {"start_epoch": 1},
        "train": {"epochs": 3, "held_out_share": 0.34, "validate_every": 1, "test_weights": "best"},
        "score": {"report": False},  # takes longer than the training
        "compute": {"workers": 1, "cpus_per_worker": 1},
    }
    path.write_text(yaml.safe_dump(values))
    return path
