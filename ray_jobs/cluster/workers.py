"""How many training workers a cluster has room for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import ray

from ccvid.config import ComputeOptions
from data_tools.errors import InputError


class Workers:
    """The number of training workers and the resources of each.

    ``count`` of them fit into the cluster now; ``wanted`` is the number requested from Ray Train, or a range if the
    recipe has one; ``nodes`` are the ids of the nodes with a CPU, and a GPU if needed, for a worker.

    Args:
        validators: for so many actors beside the workers, with the resources of a worker each, room is left.

    Raises:
        InputError: the cluster does not have the resources that the recipe requires.
    """

    def __init__(self, compute: ComputeOptions, *, validators: int = 0) -> None:
        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        nodes = [node["Resources"] for node in alive]
        gpus, cpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("GPU", "CPU"))
        self.use_gpu = gpus > 0 if compute.use_gpu is None else compute.use_gpu
        self.nodes = [node["NodeID"] for node in alive if self._may_work_on(node["Resources"])]
        homes = [node for node in nodes if self._may_work_on(node)]
        self.wanted = compute.workers or (gpus - validators if self.use_gpu else len(homes))
        fewest, most = self.wanted if isinstance(self.wanted, tuple) else (self.wanted, self.wanted)
        if isinstance(self.wanted, tuple):  # nodes may join, so assume a full node for each share
            per_node = int(max((node["GPU"] for node in homes), default=1)) if self.use_gpu else 1
        else:
            per_node = max(1, -(-(most + validators) // max(1, len(homes))))
        smallest = int(min((node["CPU"] for node in homes), default=1))
        self.cpus = compute.cpus_per_worker or max(1, smallest // per_node)
        rooms = (min(node["CPU"] // self.cpus, node["GPU"] if self.use_gpu else math.inf) for node in homes)
        self.count = min(most, int(sum(rooms)) - validators)
        if not 1 <= fewest <= self.count:
            beside, flag = (f" and {validators} validators", ", --compute.validators") if validators else ("", "")
            raise InputError(
                f"{max(1, fewest)} workers{beside} with {self.cpus} CPUs{' and a GPU' if self.use_gpu else ''} each do "
                f"not fit the cluster's {cpus} CPUs and {gpus} GPUs; change --compute.workers{flag} or "
                "--compute.cpus_per_worker"
            )
        decoders, taken = fewest * compute.decoders, (fewest + validators) * self.cpus
        if decoders > cpus - taken:
            raise InputError(
                f"{fewest} workers with {compute.decoders} decoders each need {decoders} CPUs besides the {taken} of "
                f"workers{' and validators' if validators else ''}, and the cluster has {cpus}; lower "
                "--compute.decoders or --compute.cpus_per_worker"
            )

    def _may_work_on(self, node: Mapping[str, float]) -> bool:
        return node.get("CPU", 0) >= 1 and (not self.use_gpu or node.get("GPU", 0) >= 1)

    @property
    def resources(self) -> dict[str, float]:
        """Resources of one worker, in Ray's format."""
        return {"CPU": float(self.cpus)} | ({"GPU": 1.0} if self.use_gpu else {})

    def __str__(self) -> str:
        number = f"{self.wanted[0]} to {self.wanted[1]}" if isinstance(self.wanted, tuple) else f"{self.wanted}"
        return f"{number} worker(s), each {self.cpus} CPU(s){' and a GPU' if self.use_gpu else ''}"
