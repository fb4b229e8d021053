"""A cluster on one machine in which one node claims a GPU, to place work that needs none elsewhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.jobs.head import QUICK_HEARTBEATS, ROOT, Head


class GpuCluster(Head):
    """A head without CPUs, a node with a CPU and a made-up GPU, and nodes without GPUs, in ``cpu_nodes``.

    Args:
        folder: an empty folder.
        cpus: of each node without a GPU.
    """

    def __init__(self, folder: Path, cpus: tuple[int, ...]) -> None:
        super().__init__(folder, 0, dashboard=False, settings=QUICK_HEARTBEATS)
        self.nodes.append(self._start("gpu", 1, "--address", self.address, "--num-gpus", 1))
        self.cpu_nodes = [self.add_node(count) for count in cpus]

    def start_driver(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        """Run `python -m MODULE ...` as a driver; stdout and stderr are one stream."""
        return subprocess.Popen(
            [str(self.python), "-u", "-m", module, *arguments],
            env=self.driver_environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
