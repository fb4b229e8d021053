"""What others see of a run: the cluster's Prometheus endpoint, Ray Train's JSON logs, MLflow."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient

from ccvid.config import Recipe, RunOptions
from ccvid.training.context import LocalRun
from ccvid.training.stopping import EndedOnRequestError
from data_tools.errors import InputError
from ray_jobs.training.gauges import metric_sinks
from tests.jobs.head import Head
from tests.processes import PATIENCE_SECONDS


@pytest.mark.slow
def test_a_cluster_shows_a_run(head: Head, tiny_recipe: Path, tmp_path: Path) -> None:
    """Two workers: gauges while they train, then the JSON log, MLflow, and a console without any of it."""
    flags = ["--recipe", str(tiny_recipe), "--compute.workers", "2", "--batch.identities", "1", "--run.name", "seen"]
    flags += ["--train.epochs", "100", "--train.log_every_seconds", "1", "--train.checkpoint_every_epochs", "10"]
    flags += ["--train.checkpoint_share", "1"]  # however slow the machine
    process = head.start("train.py", *flags, "--run.mlflow", str(tmp_path / "mlflow.db"))
    try:
        gauges = wait_for_gauges(head, process, {"0", "1"})
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, output[-3000:]
    for rank in ("0", "1"):
        assert gauges["ray_ccvid_clips_per_second", rank] > 0
        assert 0 <= gauges["ray_ccvid_data_wait_share", rank] <= 1
        assert 0 < gauges["ray_ccvid_epoch", rank] <= 100

    records = {
        rank: [record for record in log_records(head, "seen") if record["world_rank"] == rank] for rank in (0, 1)
    }
    for events in (Counter(record["event"] for record in records[rank] if "event" in record) for rank in (0, 1)):
        assert (events["started"], events["finished"], events["failed"]) == (1, 1, 0)
        assert events["checkpoint"] >= 10
        assert events["progress"] >= 2
    validations = [record for record in records[0] if record.get("event") == "validation"]
    assert [record["epoch"] for record in validations] == list(range(1, 101))
    assert 0 <= validations[-1]["clothes_changing_map"] <= 1

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    folder = tmp_path / "runs" / "seen"
    run = client.get_run(json.loads((folder / "mlflow.json").read_text())["run_id"])
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    losses = {step["step"]: step["identity_loss"] for step in steps if "identity_loss" in step}
    logged = client.get_metric_history(run.info.run_id, "train/identity_loss")
    assert {metric.step: metric.value for metric in logged} == pytest.approx(losses)
    assert (run.info.run_name, run.info.status, run.data.tags["world_size"]) == ("seen", "FINISHED", "2")
    assert run.data.params["model.backbone"] == "c2d_resnet18_slim"
    scored = json.loads((folder / "metrics.json").read_text())["protocols"]["clothes_changing"]
    assert run.data.metrics["test/clothes_changing/map"] == pytest.approx(scored["map"])
    assert run.data.metrics["test/clothes_changing/cmc/1"] == pytest.approx(scored["cmc"]["1"])

    print(output)
    assert len(re.findall(r"epoch 100/100 step \d+/\d+", output)) == 1  # neither twice nor from both ranks
    assert not re.findall(r"(?i)alembic|sqlalchemy|mlflow\b(?!\.db)|\bINFO\b|checkpoint$|Reporting training", output)


@pytest.mark.parametrize(
    ("error", "status", "event"),
    [
        (None, "FINISHED", "finished"),
        (EndedOnRequestError("asked"), "KILLED", "ended"),
        (OSError("x"), "FAILED", "failed"),
    ],
)
def test_the_log_and_mlflow_learn_how_a_run_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception | None, status: str, event: str
) -> None:
    caplog.set_level(logging.INFO, "ray_jobs")
    recipe = Recipe(run=RunOptions(name="short", mlflow=f"{tmp_path}/mlflow.db"))
    expected: AbstractContextManager[Any] = nullcontext() if error is None else pytest.raises(type(error))
    with expected, metric_sinks(recipe, LocalRun(tmp_path), "walkers") as sinks:
        for sink in sinks:
            sink.add("speed", 4, {"clips_per_second": 8.0, "data_wait_share": 0.1})
        if error is not None:
            raise error
    assert [record.event for record in caplog.records] == [event]  # type: ignore[attr-defined]
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run(json.loads((tmp_path / "mlflow.json").read_text())["run_id"])
    assert run.info.status == status
    assert run.data.metrics["speed/clips_per_second"] == 8.0


def test_mlflow_that_is_not_installed_is_reported_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccvid.training.mlflow_sink.find_spec", lambda _: None)
    recipe = Recipe(run=RunOptions(mlflow="http://127.0.0.1:1"))
    with (
        pytest.raises(InputError, match=r"pip install 'ccvid\[mlflow\]'"),
        metric_sinks(recipe, LocalRun(tmp_path), "walkers"),
    ):
        raise AssertionError("begun without MLflow")


def wait_for_gauges(head: Head, process: subprocess.Popen[str], ranks: set[str]) -> dict[tuple[str, str], float]:
    """Values by (metric, rank) of the run, once every rank's epoch is there; Ray sends them every ten seconds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        found = dict(scrape(head, "seen"))
        if {rank for name, rank in found if name == "ray_ccvid_epoch"} == ranks:
            return found
        time.sleep(1)
    process.kill()
    raise AssertionError(f"no gauges of the run were seen: {process.communicate()[0][-3000:]}")


def scrape(head: Head, run: str) -> Iterator[tuple[tuple[str, str], float]]:
    """The run's gauges on every endpoint that Prometheus would find."""
    for group in json.loads((head.own.temporary / "prom_metrics_service_discovery.json").read_text()):
        for target in group["targets"]:
            try:
                text = urlopen(f"http://{target}/metrics", timeout=60).read().decode()
            except URLError:  # Ray also names the autoscaler's endpoint, which these heads run without
                continue
            for name, labels, value in re.findall(r"^(ray_ccvid_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
                if f'run="{run}"' in labels:
                    yield (name, re.findall(r'\brank="(\d+)"', labels)[0]), float(value)


def log_records(head: Head, run: str) -> list[dict[str, Any]]:
    """The logs of the run's workers, as Ray Train keeps them on their node."""
    files = (head.own.temporary / "session_latest" / "logs" / "train").glob("ray-train-app-worker-*.log")
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [record for record in records if record["run_name"] == run]
