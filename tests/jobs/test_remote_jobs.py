"""Jobs whose shards, runs and checkpoints are on object storage."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ccvid.config import ModelOptions
from ccvid.trained_model import find_checkpoint, read_trained_model
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from ray_jobs import evaluate
from tests.conftest import TINY_WALKERS
from tests.jobs.breaking import expect_success
from tests.jobs.conftest import write_tiny_recipe
from tests.jobs.head import ROOT, Head
from tests.jobs.scoring.test_evaluate import given
from tests.s3_server import S3Server

__all__ = ["given"]  # a fixture

pytestmark = pytest.mark.slow


def test_scores_are_written_to_and_checked_on_object_storage(
    s3: S3Server, given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = StorageFolder(s3.bucket()) / "runs"
    flags = ["--run.storage", str(storage), "--run.name", "scored", "--distances"]
    for _ in range(2):
        evaluate.main([*flags, str(given)])
    assert json.loads(storage.read("scored/metrics.json"))["protocols"]["general"]["queries"] == 3
    files = ["metrics.json", "metrics.txt", "queries.parquet", "report", "thresholds.json"]
    assert (storage / "scored").names() == files
    assert (storage / "scored").exists("report/index.html")
    assert f"results: {storage}/scored" in capsys.readouterr().out
    other = given.with_name("other.npz")
    other.write_bytes(given.read_bytes())
    with pytest.raises(InputError, match=rf"^{storage}/scored: contains the scores of something else"):
        evaluate.main([*flags, str(other)])
    storage.write("scored/config.yaml", b"")
    with pytest.raises(InputError, match=rf"^{storage}/scored: contains a training run"):
        evaluate.main([*flags, str(given)])


def test_a_wrong_bucket_and_wrong_keys_are_one_line(s3: S3Server, given: Path) -> None:
    command = [sys.executable, str(ROOT / "ray_jobs" / "evaluate.py"), "--distances", str(given)]

    def error_of(place: str) -> str:
        done = subprocess.run([*command, "--run.storage", place], env=os.environ, capture_output=True, text=True)
        assert done.returncode in (1, 2), done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr

    assert re.match(r"error: s3://no-such-bucket/x/small-scores/\S+: no such bucket", error_of("s3://no-such-bucket/x"))
    assert "knows the scheme s4://" in error_of("s4://bucket")
    bucket = s3.bucket()
    s3.forbid()
    assert error_of(bucket).startswith(f"error: {bucket}/small-scores/config.yaml: access denied: ")


def test_the_same_checkpoint_is_found_on_any_storage(s3: S3Server, tmp_path: Path) -> None:
    remote = StorageFolder(s3.bucket()) / "runs" / "one"
    local = StorageFolder(str(tmp_path / "one"))
    for folder in (remote, local):
        with pytest.raises(InputError, match="neither a checkpoint"):
            find_checkpoint(folder)
        for name, epoch in (("checkpoint_a", 10), ("checkpoint_b", 9), ("checkpoint_unfinished", 11)):
            folder.write(f"{name}/model.safetensors", b"")
            folder.write(f"{name}/progress.json", json.dumps({"epoch": epoch, "step": 0}).encode())
            if name != "checkpoint_unfinished":
                folder.write(f"{name}/model.json", b"{}")
        assert find_checkpoint(folder) == folder / "checkpoint_a"
        assert find_checkpoint(folder / "checkpoint_b") == folder / "checkpoint_b"
        folder.write("config.yaml", yaml.safe_dump({"train": {"test_weights": "best"}}).encode())
        assert find_checkpoint(folder) == folder / "checkpoint_a"
        folder.write("best/model.safetensors", b"")
        assert find_checkpoint(folder) == folder / "best"


def test_from_walkers_to_scores_on_object_storage(head: Head, s3: S3Server, tmp_path: Path) -> None:
    """Sharded, verified, trained and scored again, with nothing on a shared disk."""
    bucket = StorageFolder(s3.bucket())
    values = yaml.safe_load(write_tiny_recipe(tmp_path, Path("unused")).read_text())
    values["run"]["storage"] = f"{bucket}/runs"
    values["data"] = {
        "kind": "synthetic",
        "shards": f"{bucket}/walkers",
        "synthetic": TINY_WALKERS.model_dump(mode="json") | {"frames": 10},  # tracks of 8 boxes or more are kept
        "frames": {"height": 32, "width": 16, "shard_mebibytes": 0.05},
        "cache": {"folder": str(tmp_path / "cache")},
    }
    recipe = tmp_path / "remote.yaml"
    recipe.write_text(yaml.safe_dump(values))
    expect_success(head.run("shard.py", "--recipe", str(recipe)))
    assert "all checksums and frames are correct" in expect_success(
        head.run("shard.py", "--recipe", str(recipe), "--verify")
    )
    assert not (tmp_path / "cache").exists()

    error_of = expect_success(head.run("train.py", "--recipe", str(recipe)))
    run = bucket / "runs" / "tiny"
    assert f"results: {run}" in error_of
    trained = json.loads(run.read("metrics.json"))
    (cached,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    shards = sum(path.stat().st_size for path in cached.glob("shard-*.arrow"))

    before = s3.bytes_sent
    flags = ["--recipe", str(recipe), "--checkpoint", str(run), "--run.name", "again", "--score.report", "true"]
    error_of = expect_success(head.run("evaluate.py", *flags))
    assert f"pictures: {bucket}/runs/again/rankings_clothes_changing.svg" in error_of
    scored = json.loads((bucket / "runs" / "again").read("metrics.json"))
    assert (scored["model"], scored["source"]) == (trained["model"], str(run))
    assert scored["protocols"] == trained["protocols"]
    weights = sum((run / "best").sizes().values())
    assert s3.bytes_sent - before < weights + shards  # the shards came from the cache
    with (run / "best").fetched() as path:
        assert read_trained_model(path, ModelOptions()).fingerprint == scored["model"]
