"""Running something once on each node of the cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_jobs.cluster.job_console import with_drivers_console
from ray_jobs.cluster.tasks import results_of

Result = TypeVar("Result")


def on_every_node(function: Callable[..., Result], *arguments: Any) -> dict[str, Result]:
    """The result of ``function(*arguments)`` by the address of each node that is alive; reserves no CPU.

    Raises:
        InputError, OSError: raised by the function.
    """
    task: Any = ray.remote(num_cpus=0, max_retries=3)(with_drivers_console(function))
    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in known if node["Alive"]}
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    found = results_of([task.options(scheduling_strategy=place).remote(*arguments) for place in places])
    return dict(zip(nodes.values(), found, strict=True))
