"""A training run whose shards, checkpoints and results stand on an S3 server."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_tools.storage import StorageFolder
from tests.jobs.breaking import Outcome, Run, expect_success, steps_done
from tests.jobs.conftest import write_tiny_recipe
from tests.jobs.head import Head
from tests.s3_server import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FLAGS = ["--train.epochs", "30", "--train.log_every_seconds", "0.01", "--train.checkpoint_share", "1"]


@pytest.fixture
def cluster(s3: S3Server, tmp_path: Path) -> Iterator[Head]:
    (tmp_path / "head").mkdir()
    head = Head(tmp_path / "head", settings=s3.environment)
    yield head
    head.stop()


def test_a_run_on_object_storage_that_refuses_writes_for_a_while(
    s3: S3Server, cluster: Head, tiny_shards: Path, tmp_path: Path
) -> None:
    """It ends as one on a local disk; nothing of it stands on the node but the cache of shards."""
    recipe, bucket = write_tiny_recipe(tmp_path, tiny_shards), StorageFolder(s3.bucket())
    expect_success(cluster.run("train.py", "--recipe", str(recipe), *FLAGS, "--run.name", "local"))
    undisturbed = Outcome.of(StorageFolder(str(tmp_path / "runs" / "local")))

    (bucket / "shards").upload_folder(tiny_shards, last="manifest.json")
    remote = ["--recipe", str(recipe), *FLAGS, "--run.name", "remote", "--run.storage", str(bucket / "runs")]
    remote += ["--data.shards", str(bucket / "shards"), "--data.cache.folder", str(tmp_path / "cache")]
    place = bucket / "runs" / "remote"
    run = Run(cluster, place, remote, nodes=0, log=tmp_path / "driver.log")
    try:
        run.reach(step := random.SystemRandom().randint(1, 30))
        s3.refuse_writes()
        print(f"writes are refused from step {step} on")
        time.sleep(12)
        held = steps_done(place)
        assert run.process.poll() is None, run.told()
        s3.accept_writes()
        assert run.finish() == undisturbed
    finally:
        run.end()
    assert held < 60, "the run was over before writes were refused"
    told = (tmp_path / "driver.log").read_text()
    # Ray's own cleaner raises where two clusters are on one host, as here where other tests' head is up.
    assert "Traceback" not in "".join(line for line in told.splitlines() if "PlacementGroupCleaner" not in line)
    assert {"metrics.json", "metrics.txt", "config.yaml", "embeddings.parquet", "best"} <= set(place.names())
    assert not (tmp_path / "runs" / "remote").exists()

    again = expect_success(cluster.run("train.py", *remote))
    assert "finished before" in again
    assert "clothes-changing" in again
