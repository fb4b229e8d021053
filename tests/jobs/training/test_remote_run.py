"""A training run, and a search, whose shards, checkpoints and results are on an S3 server."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from data_tools.storage import StorageFolder
from tests.chance import chance
from tests.jobs.breaking import Outcome, Run, expect_success, steps_done
from tests.jobs.conftest import write_tiny_recipe
from tests.jobs.head import Head
from tests.processes import PATIENCE_SECONDS, wait_for
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

FLAGS = ["--train.epochs", "30", "--train.log_every_seconds", "0.01", "--train.checkpoint_share", "1"]


def test_a_run_on_object_storage_that_refuses_writes_for_a_while(
    s3: S3Server, head: Head, tiny_shards: Path, tmp_path: Path
) -> None:
    """It ends like one on a local disk; nothing of it is on the node except the cache of shards."""
    recipe, bucket = write_tiny_recipe(tmp_path, tiny_shards), StorageFolder(s3.bucket())
    expect_success(head.run("train.py", "--recipe", str(recipe), *FLAGS, "--run.name", "local"))
    undisturbed = Outcome.of(StorageFolder(str(tmp_path / "runs" / "local")))

    (bucket / "shards").upload_folder(tiny_shards, last="manifest.json")
    remote = ["--recipe", str(recipe), *FLAGS, "--run.name", "remote", "--run.storage", str(bucket / "runs")]
    remote += ["--data.shards", str(bucket / "shards"), "--data.cache.folder", str(tmp_path / "cache")]
    place = bucket / "runs" / "remote"
    run = Run(head, place, remote, nodes=0, log=tmp_path / "driver.log")
    try:
        run.reach(step := chance().randint(1, 30))
        s3.refuse_writes()
        print(f"writes are refused from step {step} on")
        time.sleep(12)
        held = steps_done(place)
        assert run.process.poll() is None, run.output_end()
        s3.accept_writes()
        assert run.finish() == undisturbed
    finally:
        run.end()
    assert held < 60, "the run was over before writes were refused"
    output = (tmp_path / "driver.log").read_text()
    assert "Traceback" not in output
    assert {"metrics.json", "metrics.txt", "config.yaml", "embeddings.parquet", "best"} <= set(place.names())
    assert not (tmp_path / "runs" / "remote").exists()

    again = expect_success(head.run("train.py", *remote))
    assert "already finished" in again
    assert "clothes-changing" in again


def test_a_search_on_object_storage_that_a_signal_ended_goes_on(
    s3: S3Server, head: Head, tiny_shards: Path, tmp_path: Path
) -> None:
    """Its trials, records and best recipe are stored there; the recipe is trained from there."""
    recipe, bucket = write_tiny_recipe(tmp_path, tiny_shards), StorageFolder(s3.bucket())
    (tmp_path / "space.yaml").write_text("optim.learning_rate: {choices: [0.003, 0.001]}")
    search = ["--recipe", str(recipe), "--space", str(tmp_path / "space.yaml"), "--searcher", "grid"]
    search += ["--scheduler", "none", "--concurrency", "1", "--train.epochs", "8"]
    search += ["--run.storage", str(bucket), "--run.name", "night"]
    place = bucket / "night"

    def trials() -> list[dict[str, Any]]:
        return list(json.loads(place.read("search.json"))["trials"]) if place.exists("search.json") else []

    process = head.start("tune.py", *search)
    wait_for(lambda: any(trial["history"] for trial in trials()) or process.poll() is not None, "validation")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, output
    assert "search night stopped on request; run the same command to resume" in output
    before = trials()
    assert [trial["state"] for trial in before if trial["history"]] != ["finished", "finished"]

    assert "best so far" in expect_success(head.run("tune.py", *search))
    assert [trial["state"] for trial in trials()] == ["finished", "finished"]
    for old, new in zip(before, trials(), strict=False):
        assert new["history"][: len(old["history"])] == old["history"]
    assert {"best.yaml", "trials.parquet", "parallel_coordinates.svg"} <= set(place.names())
    assert "clothes-changing" in expect_success(head.run("train.py", "--recipe", str(place / "best.yaml")))
