"""Connecting to Ray, and running many small tasks with progress."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from ccvid.config import ComputeOptions
from data_tools.errors import InputError
from ray_jobs.ray_address import cluster_to_join
from ray_jobs.ray_start import start_cluster
from video_backbones import BackboneError

Job = TypeVar("Job")
Result = TypeVar("Result")

TASKS_PER_CPU = 2
"""Tasks handed to Ray at a time: enough to keep every CPU busy, few enough to stop soon."""

CPU_SECONDS = 600
"""How long an autoscaler may take to add the first node."""


def connect(*, show_workers: bool = True) -> None:
    """Join the cluster that RAY_ADDRESS names, or the one on this machine, or start one here.

    From then on RAY_ADDRESS names it in this process: with several clusters on a machine, parts of Ray would ask
    another one.

    Args:
        show_workers: whether what workers print is printed here too.

    Raises:
        InputError: the cluster that was named cannot be used, none can be started, or it has no CPUs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Reports wait for the controller's next look; the default of 2 s would slow down short epochs.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it would show each progress line twice
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # its actor's start prints an error each time
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not ray.is_initialized():
        _join_or_start(logging_level=logging.WARNING, log_to_driver=show_workers)
        _wait_for_cpus()
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def _join_or_start(**settings: Any) -> None:
    address = cluster_to_join()
    if address is None:
        start_cluster(**settings)
        return
    try:
        ray.init(address, **settings)
    except Exception as error:  # Ray raises bare ones, for example where versions differ
        raise InputError(f"cannot join the Ray cluster at {address}: {str(error).strip()}") from None


def _wait_for_cpus() -> None:
    """Where a cluster begins without CPUs, have a task wait for one: an autoscaler then adds a node."""
    if ray.cluster_resources().get("CPU", 0) >= 1:  # type: ignore[no-untyped-call]
        return
    address = ray.get_runtime_context().gcs_address
    print(f"the Ray cluster at {address} has no CPUs yet; waiting {CPU_SECONDS} s for a node that has", flush=True)
    try:
        ray.get(ray.remote(num_cpus=1)(lambda: None).remote(), timeout=CPU_SECONDS)
    except GetTimeoutError:
        raise InputError(f"the Ray cluster at {address} has no CPUs; add a node that has some") from None


class Workers:
    """How many training workers there are, and what each is given.

    ``count`` of them find room now; ``wanted`` is what Ray Train is asked for, a range where the recipe has one.

    Raises:
        InputError: the cluster does not have what the recipe asks for.
    """

    def __init__(self, compute: ComputeOptions) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        gpus, cpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("GPU", "CPU"))
        self.use_gpu = gpus > 0 if compute.use_gpu is None else compute.use_gpu
        homes = [node for node in nodes if node.get("CPU", 0) >= 1 and (not self.use_gpu or node.get("GPU", 0) >= 1)]
        self.wanted = compute.workers or (gpus if self.use_gpu else len(homes))
        fewest, most = self.wanted if isinstance(self.wanted, tuple) else (self.wanted, self.wanted)
        if isinstance(self.wanted, tuple):  # nodes may come, so the share of one is that of a full node
            per_node = int(max((node["GPU"] for node in homes), default=1)) if self.use_gpu else 1
        else:
            per_node = -(-most // max(1, len(homes)))
        smallest = int(min((node["CPU"] for node in homes), default=1))
        self.cpus = compute.cpus_per_worker or max(1, smallest // per_node)
        rooms = (min(node["CPU"] // self.cpus, node["GPU"] if self.use_gpu else most) for node in homes)
        self.count = min(most, int(sum(rooms)))
        if not 1 <= fewest <= self.count:
            raise InputError(
                f"{fewest} workers with {self.cpus} CPUs{' and a GPU' if self.use_gpu else ''} each do not fit the "
                f"cluster's {cpus} CPUs and {gpus} GPUs; change --compute.workers or --compute.cpus_per_worker"
            )
        decoders = fewest * compute.decoders
        if decoders > cpus - fewest * self.cpus:
            raise InputError(
                f"{fewest} workers with {compute.decoders} decoders each need {decoders} CPUs besides the workers' own "
                f"{fewest * self.cpus}, and the cluster has {cpus}; lower --compute.decoders or "
                "--compute.cpus_per_worker"
            )

    @property
    def resources(self) -> dict[str, float]:
        """Of one worker, as Ray wants them."""
        return {"CPU": float(self.cpus)} | ({"GPU": 1.0} if self.use_gpu else {})

    def __str__(self) -> str:
        number = f"{self.wanted[0]} to {self.wanted[1]}" if isinstance(self.wanted, tuple) else f"{self.wanted}"
        return f"{number} worker(s), each {self.cpus} CPU(s){' and a GPU' if self.use_gpu else ''}"


def run_task(function: Callable[..., Result], *arguments: Any, gpus: float = 0) -> Result:
    """Run ``function(*arguments)`` as a Ray task of one CPU; raises the user's mistakes that it raises."""
    task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(function)
    try:
        result: Result = ray.get(task.remote(*arguments))
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, InputError | BackboneError | OSError) else error from None
    return result


def run_tasks(
    function: Callable[..., Result],
    jobs: Sequence[Job],
    *,
    common: tuple[Any, ...],
    what: str,
    size: Callable[[Result], int],
) -> Iterator[tuple[int, Result]]:
    """Run ``function(job, *common)`` for every job as Ray tasks of one CPU; yields (job's index, result) as they end.

    Prints a line every few seconds: jobs done, frames/s, time left.

    Args:
        what: the jobs, in words.
        size: frames of a result.

    Raises:
        InputError, OSError: what the function raised, as it was.
    """
    task = ray.remote(num_cpus=1, max_retries=3)(function)
    shared = [ray.put(value) for value in common]
    most = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    running: dict[Any, int] = {}
    waiting = iter(enumerate(jobs))
    started = printed = time.monotonic()
    done = frames = 0
    try:
        while done < len(jobs):
            while len(running) < most and (job := next(waiting, None)):
                running[task.remote(job[1], *shared)] = job[0]
            finished, _ = ray.wait(list(running), num_returns=1, timeout=5)
            for reference in finished:
                index = running.pop(reference)
                result: Result = ray.get(reference)
                done, frames = done + 1, frames + size(result)
                yield index, result
            now = time.monotonic()
            if done and (now - printed >= 5 or done == len(jobs)):
                printed, seconds = now, now - started
                left = timedelta(seconds=round(seconds * (len(jobs) - done) / done))
                print(
                    f"{what}: {done}/{len(jobs)}  {frames} frames  {frames / seconds:.0f} frames/s  left {left}",
                    flush=True,
                )
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, InputError | OSError) else error from None
    finally:
        for reference in running:
            ray.cancel(reference)
