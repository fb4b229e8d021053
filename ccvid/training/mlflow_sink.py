"""Metrics for an MLflow tracking server or SQLite file, sent by a thread so that training never waits for either."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ccvid.run_files import STEPS_FILE
from ccvid.training.step_log import MetricGroup
from data_tools.documents import parse_json
from data_tools.errors import InputError
from data_tools.files import atomic_file, read_document
from data_tools.wording import first_line

MLFLOW_FILE = "mlflow.json"
SEND_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 120.0
CLOSE_SECONDS = 20.0
BATCH_METRICS = 1000
"""MLflow's limit per request; for parameters it is ``BATCH_PARAMETERS``."""
BATCH_PARAMETERS = 100
LONGEST_PARAMETER = 500
"""In characters; the limit of older servers."""

Status = Literal["FINISHED", "FAILED", "KILLED"]

logger = logging.getLogger(__name__)


def check_mlflow(tracking_uri: str) -> None:
    """Raise ``InputError`` if a package that ``tracking_uri`` needs is not installed."""
    needed = ["mlflow", *(["sqlalchemy", "alembic"] if tracking_uri.startswith("sqlite:") else [])]
    if missing := [name for name in needed if find_spec(name) is None]:
        raise InputError(f"--run.mlflow needs the package {missing[0]}: pip install 'ccvid[mlflow]'")


class MlflowSink:
    """An MLflow run's metrics, parameters and tags; a ``MetricSink``.

    A resumed run continues the MLflow run named in ``folder/mlflow.json`` and does not resend steps that MLflow
    already has. Values that cannot be sent stay in memory and are retried, after growing pauses.

    Args:
        folder: the run folder.
        experiment: created if missing.
        parameters: by name; those that the MLflow run already has keep their values.

    Raises:
        InputError: MLflow is not installed.
    """

    def __init__(
        self,
        tracking_uri: str,
        folder: Path,
        *,
        experiment: str,
        name: str,
        parameters: Mapping[str, object],
        tags: Mapping[str, str],
    ) -> None:
        check_mlflow(tracking_uri)
        self._tracking_uri, self._file = tracking_uri, folder / MLFLOW_FILE
        self._experiment, self._name, self._parameters, self._tags = experiment, name, parameters, tags
        self._waiting: list[tuple[str, float, int, int]] = []  # name, value, milliseconds, step: as MLflow's Metric
        self._lock = threading.Lock()
        self._client: Any = None
        self._run_id = ""
        self._last_steps: dict[str, int] = {}
        self._status: Status = "FINISHED"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def add(self, group: MetricGroup, step: int, values: Mapping[str, float]) -> None:
        """Queue values to send; returns at once."""
        now = int(time.time() * 1000)
        with self._lock:
            self._waiting += [(f"{group}/{name}", float(value), now, step) for name, value in values.items()]

    def close(self, status: Status = "FINISHED") -> None:
        """Send the rest, for at most ``CLOSE_SECONDS``, and end the MLflow run."""
        self._status = status
        self._ended.set()
        self._thread.join(CLOSE_SECONDS)
        if self._waiting:
            logger.warning("MLflow: %d values were not sent; find them in %s", len(self._waiting), STEPS_FILE)

    def _work(self) -> None:
        pause, failures, ended = 0.0, 0, False
        while not ended:
            ended = self._ended.wait(pause)
            try:
                self._send()
                if ended:
                    self._client.set_terminated(self._run_id, self._status)
            except Exception as error:  # of any kind: MLflow, its server or the network must not end training
                failures, pause = failures + 1, min(2 * max(pause, 1), LONGEST_PAUSE_SECONDS)
                self._last_steps.clear()  # the last batch may have arrived in part
                if failures == 2:  # one retry often helps, as when two runs create the same experiment
                    logger.warning("MLflow: %s; training continues, values are sent later", first_line(error))
            else:
                if failures >= 2:
                    logger.warning("MLflow: connected again")
                pause, failures = SEND_SECONDS, 0

    def _send(self) -> None:
        if self._client is None:
            self._client, self._run_id = self._open()
        from mlflow.entities import Metric

        while batch := self._waiting[:BATCH_METRICS]:
            fresh = [Metric(*value) for value in batch if value[3] > self._last_step(value[0])]
            if fresh:
                self._client.log_batch(self._run_id, metrics=fresh)
            self._last_steps |= {metric.key: metric.step for metric in fresh}
            with self._lock:
                del self._waiting[: len(batch)]

    def _last_step(self, name: str) -> int:
        """The last step for which MLflow has this metric; −1 if none."""
        if name not in self._last_steps:
            history = self._client.get_metric_history(self._run_id, name)
            self._last_steps[name] = max((metric.step for metric in history), default=-1)
        return self._last_steps[name]

    def _open(self) -> tuple[Any, str]:
        """A client and the id of the run, with its parameters and tags set."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # retried here, without MLflow's warnings
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        client = MlflowClient(tracking_uri=self._tracking_uri)
        run_id = self._known_run(client) or self._new_run(client)
        client.update_run(run_id, status="RUNNING")
        known = client.get_run(run_id).data.params
        parameters = [
            Param(name, str(value)[:LONGEST_PARAMETER]) for name, value in self._parameters.items() if name not in known
        ]
        for start in range(0, len(parameters), BATCH_PARAMETERS):
            client.log_batch(run_id, params=parameters[start : start + BATCH_PARAMETERS])
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in self._tags.items()])
        return client, run_id

    def _known_run(self, client: Any) -> str | None:
        """The MLflow run that this run started, if it still exists."""
        from mlflow.exceptions import MlflowException

        try:
            found = parse_json(read_document(self._file), self._file)
            if found["tracking_uri"] != self._tracking_uri:
                return None
            run = client.get_run(found["run_id"])
        except (FileNotFoundError, InputError, KeyError, TypeError):
            return None
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return str(run.info.run_id) if run.info.lifecycle_stage == "active" else None

    def _new_run(self, client: Any) -> str:
        found = client.get_experiment_by_name(self._experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(self._experiment)
        run_id = str(client.create_run(experiment_id, run_name=self._name).info.run_id)
        with atomic_file(self._file) as file:
            file.write(json.dumps({"tracking_uri": self._tracking_uri, "run_id": run_id}).encode())
        return run_id
