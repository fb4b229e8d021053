"""Observability of a run on a Ray cluster: metrics for Prometheus and records for Ray Train's JSON logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version

import torch
from ray.util.metrics import Gauge

from ccvid.config import Recipe
from ccvid.training.context import RunContext
from ccvid.training.mlflow_sink import MlflowSink, Status
from ccvid.training.step_log import MetricGroup, MetricSink, flatten
from ccvid.training.stopping import EndedOnRequestError

logger = logging.getLogger(__name__)

GAUGES = {
    "clips_per_second": "Clips per second trained by this worker",
    "data_wait_share": "Share of time that this worker waits for data, 0 to 1",
    "epoch": "Epochs done",
    "gpu_memory_allocated_bytes": "Peak GPU memory allocated by this worker's tensors",
    "gpu_memory_reserved_bytes": "Peak GPU memory reserved by this worker's PyTorch",
}
"""Speed metrics and their descriptions; in Prometheus they are called ``ray_ccvid_NAME``."""


class WorkerGauges:
    """A ``MetricSink`` for one worker's speed: Ray gauges, labelled with run and rank."""

    def __init__(self, run_name: str, rank: int, world_size: int) -> None:
        self._world_size = world_size
        tags = {"run": run_name, "rank": str(rank)}
        self._gauges = {
            name: Gauge(f"ccvid_{name}", meaning, tag_keys=tuple(tags)).set_default_tags(tags)
            for name, meaning in GAUGES.items()
        }

    def add(self, group: MetricGroup, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        """Publish the latest speed; clips per second are this worker's share, so that the workers' sum is the run's."""
        if group != "speed":
            return
        own = {**values, "clips_per_second": values["clips_per_second"] / self._world_size}
        for name, gauge in self._gauges.items():
            gauge.set(own.get(name))


@contextmanager
def metric_sinks(recipe: Recipe, run: RunContext, dataset: str) -> Iterator[list[MetricSink]]:
    """The metric sinks of one worker; at the end, the run's outcome is recorded in the log and in MLflow.

    Args:
        dataset: name of the experiment in MLflow.

    Raises:
        InputError: the recipe requires MLflow, which is not installed.
    """
    _quieten_console()
    gauges = WorkerGauges(recipe.run.name, run.rank, run.world_size)
    mlflow = _mlflow_sink(recipe, run, dataset)
    status: Status = "FAILED"
    try:
        yield [gauges] if mlflow is None else [gauges, mlflow]
        status = "FINISHED"
        logger.info("run finished", extra={"event": "finished"})
    except EndedOnRequestError as error:
        status = "KILLED"
        logger.info("%s", error, extra={"event": "ended"})
        raise
    except Exception as error:
        logger.error("%s", error, exc_info=error, extra={"event": "failed"})
        raise
    finally:
        if mlflow is not None:
            mlflow.close(status)


def _mlflow_sink(recipe: Recipe, run: RunContext, dataset: str) -> MlflowSink | None:
    if recipe.run.mlflow is None or run.rank != 0:
        return None
    tags = {"world_size": str(run.world_size), "torch": torch.__version__}
    with suppress(PackageNotFoundError):  # the package is not installed in a job's working dir
        tags["ccvid"] = version("ccvid")
    return MlflowSink(
        recipe.run.mlflow,
        run.folder,
        experiment=dataset,
        name=recipe.run.name,
        parameters=flatten(recipe.model_dump(mode="json", exclude={"run": {"mlflow"}}), "."),
        tags=tags,
    )


def _quieten_console() -> None:
    """Ray Train sends a worker's log records to a JSON file and to the console, where they would only repeat the
    progress lines."""
    for handler in logging.getLogger().handlers:
        if handler.get_name() == "console":  # Ray Train's own
            handler.addFilter(lambda record: record.levelno >= logging.WARNING and not hasattr(record, "event"))
