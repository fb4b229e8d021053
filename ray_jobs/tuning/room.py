"""How many trials a cluster has room for at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ccvid.config import ComputeOptions
from data_tools.errors import InputError


@dataclass(frozen=True, slots=True)
class Room:
    """The resources of a trial, and how many trials run at once."""

    compute: ComputeOptions
    """For one trial, with its workers and their CPUs decided."""
    trials: int
    """Number of concurrent trials."""

    def __str__(self) -> str:
        compute, gpu = self.compute, " and a GPU" if self.compute.use_gpu else ""
        return f"{self.trials} trial(s) at once, each {_processes(compute)} with {compute.cpus_per_worker} CPU(s){gpu}"


def find_room(
    compute: ComputeOptions, nodes: Sequence[Mapping[str, float]], *, concurrency: int | None, trials: int
) -> Room:
    """The number of concurrent trials whose processes all fit into the cluster, so that none waits for another.

    A trial's workers and validators take the same room each, so it is exact to count how many fit on each node.

    Args:
        compute: for one trial; 1 worker if ``workers`` is not set.
        nodes: the resources of each running node.
        concurrency: concurrent trials. Default: as many as fit.
        trials: total number of trials.

    Raises:
        InputError: the requested trials do not fit into the cluster.
    """
    if isinstance(compute.workers, tuple):
        raise InputError("compute.workers: a trial has a fixed number of workers, so that scores can be compared")
    workers = compute.workers or 1
    processes = workers + compute.validators
    use_gpu = any(node.get("GPU", 0) >= 1 for node in nodes) if compute.use_gpu is None else compute.use_gpu
    homes = [node for node in nodes if node.get("CPU", 0) >= 1 and (not use_gpu or node.get("GPU", 0) >= 1)]
    cpus = compute.cpus_per_worker or _share(homes, use_gpu, processes * (concurrency or 1))
    slots = sum(int(min(node["CPU"] // cpus, node["GPU"] if use_gpu else node["CPU"])) for node in homes)
    fit = slots // processes
    gpu = " and a GPU" if use_gpu else ""
    if compute.decoders:  # on a worker's node, it could block a later trial's workers
        spare = sum(int(node.get("CPU", 0)) for node in nodes if node not in homes)
        slots, gpu = min(slots, spare // compute.decoders), f"{gpu} and {compute.decoders} decoder(s) on other nodes"
        fit = min(fit, slots // workers)
    decided = compute.model_copy(update={"workers": workers, "cpus_per_worker": cpus, "use_gpu": use_gpu})
    if fit < (concurrency or 1):
        raise InputError(
            f"{concurrency or 1} trial(s) at once of {_processes(decided)} with {cpus} CPU(s){gpu} each do not fit the "
            f"cluster, whose {len(nodes)} node(s) hold {slots} such worker(s); lower --concurrency, --compute.workers "
            "or --compute.cpus_per_worker"
        )
    return Room(decided, min(concurrency or fit, trials))


def _processes(compute: ComputeOptions) -> str:
    """Of a trial."""
    validators = f" and {compute.validators} validator(s)" if compute.validators else ""
    return f"{compute.workers} worker(s){validators}"


def _share(homes: Sequence[Mapping[str, float]], use_gpu: bool, processes: int) -> int:
    """CPUs per worker: a GPU's share of its node, or a node's CPUs divided among the processes it must hold."""
    if use_gpu:
        return max(1, int(min((node["CPU"] // node["GPU"] for node in homes), default=1)))
    per_node = -(-processes // max(1, len(homes)))
    return max(1, int(min((node["CPU"] for node in homes), default=1)) // per_node)
