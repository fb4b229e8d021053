"""MLflow gets every value once, whatever is killed, and training never waits for it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient

from ccvid.config import RunOptions
from ccvid.training import mlflow_sink
from ccvid.training.mlflow_sink import MlflowSink, check_mlflow
from data_tools.errors import InputError
from tests.chance import chance
from tests.processes import PATIENCE_SECONDS, wait_for

PARAMETERS = {f"section.field{number}": number for number in range(230)} | {"run.long": "x" * 9000}


@pytest.fixture(autouse=True)
def time_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine may need long to send the rest; tests of a missing server set a shorter time."""
    monkeypatch.setattr(mlflow_sink, "CLOSE_SECONDS", PATIENCE_SECONDS)


def open_sink(uri: str, folder: Path, **tags: str) -> MlflowSink:
    return MlflowSink(uri, folder, experiment="walkers", name="first", parameters=PARAMETERS, tags=tags)


def add_steps(sink: MlflowSink, steps: range) -> None:
    for step in steps:
        sink.add("train", step, {"identity_loss": step / 2, "learning_rate": 0.1})


def only_run(uri: str) -> Any:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("walkers")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def logged(uri: str, name: str) -> list[tuple[int, float]]:
    history = MlflowClient(tracking_uri=uri).get_metric_history(only_run(uri).info.run_id, name)
    return sorted((metric.step, metric.value) for metric in history)


def test_a_run_that_goes_on_continues_its_mlflow_run(tmp_path: Path) -> None:
    """Steps 20 to 29 are repeated, as after a kill: MLflow has them once."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sink = open_sink(uri, tmp_path, world_size="2")
    add_steps(sink, range(1500))  # more than fit one request
    sink.add("validation", 1499, {"general_map": 0.25})
    sink.close("FAILED")
    run = only_run(uri)
    assert run.info.run_name == "first"
    assert run.info.status == "FAILED"
    assert run.data.params["section.field229"] == "229"
    assert len(run.data.params) == len(PARAMETERS)

    again = open_sink(uri, tmp_path, world_size="4")
    add_steps(again, range(1490, 1600))
    again.add("test", 1599, {"clothes_changing/map": 0.5})
    again.close()
    assert logged(uri, "train/identity_loss") == [(step, step / 2) for step in range(1600)]
    assert logged(uri, "validation/general_map") == [(1499, 0.25)]
    assert logged(uri, "test/clothes_changing/map") == [(1599, 0.5)]
    run = only_run(uri)
    assert run.info.status == "FINISHED"
    assert run.data.tags["world_size"] == "4"


def test_a_run_that_was_deleted_in_mlflow_or_logs_elsewhere_begins_a_new_one(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    open_sink(uri, tmp_path).close()
    first = only_run(uri).info.run_id
    MlflowClient(tracking_uri=uri).delete_run(first)
    sink = open_sink(uri, tmp_path)
    add_steps(sink, range(3))
    sink.close()
    assert only_run(uri).info.run_id != first
    assert len(logged(uri, "train/identity_loss")) == 3
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    sink = open_sink(elsewhere, tmp_path)
    add_steps(sink, range(3))
    sink.close()
    assert len(logged(elsewhere, "train/identity_loss")) == 3


def test_a_server_that_is_not_there_is_reported_once_and_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_sink, "LONGEST_PAUSE_SECONDS", 0.05)
    started = time.monotonic()
    sink = open_sink(f"http://127.0.0.1:{free_port()}", tmp_path)
    add_steps(sink, range(1000))
    assert time.monotonic() - started < 1
    wait_for(lambda: caplog.records, "warning")
    time.sleep(0.5)  # several more retries
    assert len(caplog.records) == 1
    assert "training continues" in caplog.text
    sink.close()
    assert "2000 values were not sent; find them in steps.jsonl" in caplog.text
    assert not (tmp_path / "mlflow.json").exists()


@pytest.mark.slow
def test_a_server_killed_while_values_flow_has_each_value_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mlflow_sink, "SEND_SECONDS", 0.01)
    monkeypatch.setattr(mlflow_sink, "LONGEST_PAUSE_SECONDS", 0.2)
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    kill_after = chance().uniform(0.2, 2.0)
    print(f"the server is killed {kill_after:.2f} s after the first value")
    server = start_server(tmp_path, port)
    try:
        sink = open_sink(uri, tmp_path)
        add_steps(sink, range(1))
        wait_for(lambda: not sink._waiting, "first value")
        killed = time.monotonic() + kill_after
        step = 1
        while time.monotonic() < killed or step < 100:
            add_steps(sink, range(step, step + 5))
            step += 5
            time.sleep(0.01)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        add_steps(sink, range(step, step + 100))
        wait_for(lambda: "training continues" in caplog.text, "warning")
        server = start_server(tmp_path, port)
        wait_for(lambda: "connected again" in caplog.text, "recovery")
        sink.close()
        assert logged(uri, "train/identity_loss") == [(number, number / 2) for number in range(step + 100)]
        assert only_run(uri).info.status == "FINISHED"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_what_is_missing_or_wrong_is_reported_before_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mlflow_sink, "find_spec", lambda name: None if name == "sqlalchemy" else object())
    check_mlflow("http://server")
    with pytest.raises(InputError, match=r"needs the package sqlalchemy: pip install 'ccvid\[mlflow\]'"):
        open_sink("sqlite:////folder/mlflow.db", tmp_path)
    monkeypatch.chdir(tmp_path)
    for given in ("mlflow.db", "sqlite:///mlflow.db", f"sqlite:///{tmp_path}/mlflow.db"):
        assert RunOptions(mlflow=given).mlflow == f"sqlite:///{tmp_path}/mlflow.db"
    assert RunOptions(mlflow="https://server:5000/path").mlflow == "https://server:5000/path"
    with pytest.raises(
        ValueError, match="expected the http:// or https:// address of a server, or a path, got 'ftp://server'"
    ):
        RunOptions(mlflow="ftp://server")


def start_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A real tracking server, in its own process group."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "files")]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "server.log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            [*command, *stores], env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
        )

    def answers() -> bool:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            return bool(urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read())
        except (URLError, ConnectionError):
            return False

    wait_for(answers, "MLflow server")
    return server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
