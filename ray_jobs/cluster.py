"""Connecting to Ray, and running many small tasks with progress."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from ccvid.config import ComputeOptions
from data_tools.errors import InputError
from data_tools.progress import Meter, kept, message, state
from ray_jobs.job_console import listen, told_to_driver
from ray_jobs.orphans import release_orphans
from ray_jobs.ray_address import cluster_to_join
from ray_jobs.ray_start import start_cluster
from video_backbones import BackboneError

Job = TypeVar("Job")
Result = TypeVar("Result")

TASKS_PER_CPU = 2
"""Tasks handed to Ray at a time: enough to keep every CPU busy, few enough to stop soon."""

CPU_SECONDS = 600
"""How long an autoscaler may take to add the first node."""


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names, or the one on this machine, or start one here.

    From then on RAY_ADDRESS names it in this process: with several clusters on a machine, parts of Ray would ask
    another one. What workers print goes to Ray's logs; what they tell their console (:mod:`data_tools.progress`) is
    shown here.

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
    except Exception as error:  # Ray raises bare ones, for example where versions differ
        raise InputError(f"cannot join the Ray cluster at {address}: {str(error).strip()}") from None


def _wait_for_cpus() -> None:
    """Where a cluster begins without CPUs, have a task wait for one: an autoscaler then adds a node."""
    if ray.cluster_resources().get("CPU", 0) >= 1:  # type: ignore[no-untyped-call]
        return
    address = ray.get_runtime_context().gcs_address
    message(f"the Ray cluster at {address} has no CPUs yet; waiting {CPU_SECONDS} s for a node that has")
    try:
        ray.get(ray.remote(num_cpus=1)(lambda: None).remote(), timeout=CPU_SECONDS)
    except GetTimeoutError:
        raise InputError(f"the Ray cluster at {address} has no CPUs; add a node that has some") from None


def logs_folder() -> Path:
    """Where each node of this driver's cluster keeps what its workers print."""
    context = ray.get_runtime_context()
    return Path(context.get_temp_dir()) / context.get_session_name() / "logs"


class Workers:
    """How many training workers there are, and what each is given.

    ``count`` of them find room now; ``wanted`` is what Ray Train is asked for, a range where the recipe has one;
    ``nodes`` are the ids of the nodes that have a CPU, and where wanted a GPU, for one.

    Raises:
        InputError: the cluster does not have what the recipe asks for.
    """

    def __init__(self, compute: ComputeOptions) -> None:
        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        nodes = [node["Resources"] for node in alive]
        gpus, cpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("GPU", "CPU"))
        self.use_gpu = gpus > 0 if compute.use_gpu is None else compute.use_gpu
        self.nodes = [node["NodeID"] for node in alive if self._may_work_on(node["Resources"])]
        homes = [node for node in nodes if self._may_work_on(node)]
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

    def _may_work_on(self, node: Mapping[str, float]) -> bool:
        return node.get("CPU", 0) >= 1 and (not self.use_gpu or node.get("GPU", 0) >= 1)

    @property
    def resources(self) -> dict[str, float]:
        """Of one worker, as Ray wants them."""
        return {"CPU": float(self.cpus)} | ({"GPU": 1.0} if self.use_gpu else {})

    def __str__(self) -> str:
        number = f"{self.wanted[0]} to {self.wanted[1]}" if isinstance(self.wanted, tuple) else f"{self.wanted}"
        return f"{number} worker(s), each {self.cpus} CPU(s){' and a GPU' if self.use_gpu else ''}"


def run_task(function: Callable[..., Result], *arguments: Any, gpus: float = 0) -> Result:
    """Run ``function(*arguments)`` as a Ray task of one CPU; raises the user's mistakes that it raises."""
    task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(told_to_driver(function))
    result: Result = results_of([task.remote(*arguments)])[0]
    return result


def results_of(references: Sequence[Any]) -> list[Any]:
    """The results of Ray tasks; raises the user's mistakes that they raise."""
    try:
        return list(ray.get(list(references)))
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, InputError | BackboneError | OSError) else error from None


def run_tasks(
    function: Callable[..., Result],
    jobs: Sequence[Job],
    *,
    common: tuple[Any, ...],
    what: str,
    unit: str,
    place: object = None,
    size: Callable[[Result], int],
) -> Iterator[tuple[int, Result]]:
    """Run ``function(job, *common)`` for every job as Ray tasks of one CPU; yields (job's index, result) as they end.

    Tells every few seconds: jobs done, frames/s, time left; and what is kept if it is interrupted.

    Args:
        what: the work, in words.
        unit: the jobs, in one word.
        place: where those that are finished stay if this is interrupted; None: nowhere.
        size: frames of a result.

    Raises:
        InputError, OSError: what the function raised, as it was.
    """
    task = ray.remote(num_cpus=1, max_retries=3)(told_to_driver(function))
    meter = Meter(what, len(jobs), unit)
    shared = [ray.put(value) for value in common]
    most = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    running: dict[Any, int] = {}
    waiting = iter(enumerate(jobs))
    done = 0
    try:
        while done < len(jobs):
            while len(running) < most and (job := next(waiting, None)):
                running[task.remote(job[1], *shared)] = job[0]
            finished, _ = ray.wait(list(running), num_returns=1, timeout=5)
            for reference in finished:
                index = running.pop(reference)
                result: Result = ray.get(reference)
                done += 1
                if place is not None:
                    kept("data", f"{done} of {len(jobs)} {unit} under {place}")
                yield index, result
                meter.add(1, frames=size(result))
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, InputError | OSError) else error from None
    finally:
        for reference in running:
            ray.cancel(reference)
