"""Joining a Ray cluster, or starting one."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError

from data_tools.errors import InputError
from data_tools.progress import message, state
from ray_jobs.cluster.address import cluster_to_join
from ray_jobs.cluster.job_console import listen
from ray_jobs.cluster.orphans import release_orphans
from ray_jobs.cluster.start import start_cluster

CPU_SECONDS = 600
"""How long an autoscaler may take to add the first node."""


def connect() -> None:
    """Join the cluster in RAY_ADDRESS, or the one on this machine, or start one here.

    Afterwards RAY_ADDRESS names it in this process: with several clusters on a machine, parts of Ray would otherwise
    use another one. What workers print goes to Ray's logs; what they show on their console
    (:mod:`data_tools.progress`) is shown here.

    Raises:
        InputError: the cluster in RAY_ADDRESS cannot be used, none can be started, or it has no CPUs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Reports wait for the controller's next poll; the default of 2 s would slow down short epochs.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it would duplicate progress lines
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # its actor prints an error at every start
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not ray.is_initialized():
        _join_or_start(logging_level=logging.WARNING, log_to_driver=False)
        listen()
        release_orphans()
        _wait_for_cpus()
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def _join_or_start(**settings: Any) -> None:
    address = cluster_to_join()
    state("starting Ray" if address is None else f"joining the Ray cluster at {address}")
    if address is None:
        start_cluster(**settings)
        return
    try:
        ray.init(address, **settings)
    except Exception as error:  # Ray raises bare exceptions, for example if versions differ
        raise InputError(f"cannot join the Ray cluster at {address}: {str(error).strip()}") from None


def _wait_for_cpus() -> None:
    """If the cluster has no CPUs yet, wait with a pending task, which makes an autoscaler add a node."""
    if ray.cluster_resources().get("CPU", 0) >= 1:  # type: ignore[no-untyped-call]
        return
    address = ray.get_runtime_context().gcs_address
    message(f"the Ray cluster at {address} has no CPUs yet; waiting up to {CPU_SECONDS} s for a node with CPUs")
    try:
        ray.get(ray.remote(num_cpus=1)(lambda: None).remote(), timeout=CPU_SECONDS)
    except GetTimeoutError:
        raise InputError(f"the Ray cluster at {address} has no CPUs; add a node with CPUs") from None


def logs_folder() -> Path:
    """The folder on each node of this driver's cluster with the output of its workers."""
    context = ray.get_runtime_context()
    return Path(context.get_temp_dir()) / context.get_session_name() / "logs"
