"""Training on a real Ray cluster: several workers, submitted as a job."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.jobs.breaking import PACKAGES, expect_success, metrics
from tests.jobs.head import ROOT, Head

pytestmark = pytest.mark.slow

ROOT_FILES = (
    "README.md",
    "LICENSE",
    "pyproject.toml",
    ".gitignore",
    ".rayignore",
    ".pre-commit-config.yaml",
    "tiny.yaml",
    "few.yaml",
)


def test_two_workers_train_score_and_report(head: Head, tiny_recipe: Path, tmp_path: Path) -> None:
    """Two gloo workers, one identity each per batch, checkpoints within epochs; then the finished run is run again."""
    arguments = ["--recipe", str(tiny_recipe), "--compute.workers", "2", "--batch.identities", "1"]
    arguments += ["--train.checkpoint_every_steps", "1", "--train.log_every_seconds", "0.1", "--run.name", "two"]
    arguments += ["--score.report", "true"]
    done = head.run("train.py", *arguments)
    output = expect_success(done)
    for text in ("RayTrainWorker", "pid=", "Traceback", "WARNING", "\x1b"):
        assert text not in output + done.stderr, text
    assert "training on 2 workers\n" in output
    folder = tmp_path / "runs" / "two"
    assert "clips/s" in output
    assert "data wait" in output
    assert "left 0:0" in output
    assert "clothes-changing" in output
    assert str(folder / "rankings_clothes_changing.svg") in output
    for file in ("config.yaml", "metrics.txt", "embeddings.parquet", "queries.parquet", "best/model.safetensors"):
        assert (folder / file).exists(), file
    assert list((folder / "tensorboard").iterdir())
    assert len(list(folder.glob("checkpoint_*/"))) == 2
    assert not [path for path in folder.rglob("*") if path.suffix in (".tmp", ".partial")]
    assert list(metrics(folder)["protocols"]) == ["general", "same_clothes", "clothes_changing"]

    before = (folder / "metrics.json").stat().st_mtime_ns
    again = expect_success(head.run("train.py", *arguments))
    assert "already finished" in again
    assert (folder / "metrics.json").stat().st_mtime_ns == before

    other = head.run("train.py", *arguments, "--optim.learning_rate", "0.1")
    assert other.returncode == 1
    assert "holds a run with other settings" in other.stderr
    assert "optim.learning_rate: 0.00035 there, 0.1 now" in other.stderr

    resolved = expect_success(head.run("train.py", "--recipe", str(folder / "config.yaml"), "--run.name", "again"))
    assert "clothes-changing" in resolved
    assert metrics(tmp_path / "runs" / "again")["model"] == metrics(folder)["model"]


def test_submitted_as_a_job_where_only_the_dependencies_are_installed(
    head: Head, tiny_recipe: Path, tmp_path: Path
) -> None:
    """`ray job submit --working-dir .` of a checkout with data and a run in it, which must not be uploaded."""
    checkout = tmp_path / "checkout"
    shutil.copytree(
        ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", "tests", "runs", "data", "*.egg-info")
    )
    for folder in ("data", "runs", ".venv", "tests"):
        (checkout / folder).mkdir()
        (checkout / folder / "big").write_bytes(os.urandom(60 * 2**20))
    shutil.copy(tiny_recipe, checkout / "tiny.yaml")
    few = tiny_recipe.read_text().replace("identities: 3", "identities: 50").replace("name: tiny", "name: few")
    (checkout / "few.yaml").write_text(few)
    done = head.submit(
        checkout, "python", "ray_jobs/train.py", "--recipe", "tiny.yaml", "--train.log_every_seconds", "1"
    )
    output = expect_success(done)
    assert "clips/s" in output
    assert "clothes-changing" in output
    assert (tmp_path / "runs" / "tiny" / "metrics.json").exists()
    listing = (
        "import json, pathlib; paths = pathlib.Path('.').rglob('*')\n"
        "files = [path for path in paths if path.is_file() and path.suffix != '.pyc']  # those the first job wrote\n"
        "sizes = [path.stat().st_size for path in files]\n"
        "print('TRAVELLED', json.dumps([sorted({path.parts[0] for path in files}), sum(sizes)]))"
    )
    output = expect_success(head.submit(checkout, "python", "-c", listing))
    travelled, size = json.loads(output.split("\nTRAVELLED ")[1].splitlines()[0])
    assert set(travelled) >= {"ccvid", "ray_jobs", "data_tools", "video_backbones"}
    assert not set(travelled) & {"data", "runs", ".venv", "tests", ".git"}
    parts = [path for name in (*PACKAGES, *ROOT_FILES) for path in (checkout / name, *(checkout / name).rglob("*"))]
    code = sum(path.stat().st_size for path in parts if path.is_file() and path.suffix != ".pyc")
    assert size <= code, "more than the code travelled"

    failed = head.submit(checkout, "python", "ray_jobs/train.py", "--recipe", "few.yaml")
    assert failed.returncode != 0
    assert "too few identities" in failed.stdout + failed.stderr
    assert not (tmp_path / "runs" / "few").exists()
