"""How many trials a cluster has room for at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ccvid.config import ComputeOptions
from data_tools.errors import InputError


@dataclass(frozen=True, slots=True)
class Room:
    """What a trial is given, and how many run at once."""

    compute: ComputeOptions
    """Of one trial, with its workers and their CPUs decided."""
    trials: int
    """At once."""

    def __str__(self) -> str:
        compute, gpu = self.compute, " and a GPU" if self.compute.use_gpu else ""
        return (
            f"{self.trials} trial(s) at once, each {compute.workers} worker(s) of {compute.cpus_per_worker} CPU(s){gpu}"
        )


def find_room(
    compute: ComputeOptions, nodes: Sequence[Mapping[str, float]], *, concurrency: int | None, trials: int
) -> Room:
    """Trials at once such that the workers of all find room: none ever waits for what another holds.

    A trial's workers are all alike and are reserved together or not at all, so counting how many of them each node
    holds is exact.

    Args:
        compute: of one trial; without ``workers`` it has one.
        nodes: the resources of each living node.
        concurrency: trials at once; None: as many as find room.
        trials: in all.

    Raises:
        InputError: what is asked for does not fit the cluster.
    """
    if isinstance(compute.workers, tuple):
        raise InputError("compute.workers: a trial has a fixed number of workers, so that scores can be compared")
    workers = compute.workers or 1
    use_gpu = any(node.get("GPU", 0) >= 1 for node in nodes) if compute.use_gpu is None else compute.use_gpu
    homes = [node for node in nodes if node.get("CPU", 0) >= 1 and (not use_gpu or node.get("GPU", 0) >= 1)]
    cpus = compute.cpus_per_worker or _share(homes, use_gpu, workers * (concurrency or 1))
    slots = sum(int(min(node["CPU"] // cpus, node["GPU"] if use_gpu else node["CPU"])) for node in homes)
    gpu = " and a GPU" if use_gpu else ""
    if compute.decoders:  # one that stood where workers stand could keep a later trial's workers out
        spare = sum(int(node.get("CPU", 0)) for node in nodes if node not in homes)
        slots, gpu = min(slots, spare // compute.decoders), f"{gpu} and {compute.decoders} decoder(s) on other nodes"
    fit = slots // workers
    if fit < (concurrency or 1):
        raise InputError(
            f"{concurrency or 1} trial(s) at once of {workers} worker(s) with {cpus} CPU(s){gpu} each do not fit the "
            f"cluster, whose {len(nodes)} node(s) hold {slots} such worker(s); lower --concurrency, --compute.workers "
            "or --compute.cpus_per_worker"
        )
    decided = compute.model_copy(update={"workers": workers, "cpus_per_worker": cpus, "use_gpu": use_gpu})
    return Room(decided, min(concurrency or fit, trials))


def _share(homes: Sequence[Mapping[str, float]], use_gpu: bool, workers: int) -> int:
    """CPUs for each worker: what a GPU has of its node's, or a node's divided among the workers that it must hold."""
    if use_gpu:
        return max(1, int(min((node["CPU"] // node["GPU"] for node in homes), default=1)))
    per_node = -(-workers // max(1, len(homes)))
    return max(1, int(min((node["CPU"] for node in homes), default=1)) // per_node)
