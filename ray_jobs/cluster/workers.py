"""How many training workers a cluster has room for."""

from __future__ import annotations

from collections.abc import Mapping

import ray

from ccvid.config import ComputeOptions
from data_tools.errors import InputError


class Workers:
    """The number of training workers and the resources of each.

    ``count`` of them fit into the cluster now; ``wanted`` is the number requested from Ray Train, or a range if the
    recipe has one; ``nodes`` are the ids of the nodes with a CPU, and a GPU if needed, for a worker.

    Raises:
        InputError: the cluster does not have the resources that the recipe requires.
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
        if isinstance(self.wanted, tuple):  # nodes may join, so assume a full node for each share
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
        """Resources of one worker, in Ray's format."""
        return {"CPU": float(self.cpus)} | ({"GPU": 1.0} if self.use_gpu else {})

    def __str__(self) -> str:
        number = f"{self.wanted[0]} to {self.wanted[1]}" if isinstance(self.wanted, tuple) else f"{self.wanted}"
        return f"{number} worker(s), each {self.cpus} CPU(s){' and a GPU' if self.use_gpu else ''}"
