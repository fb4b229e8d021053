"""The abilities of the machines that train or embed, inspected once before the start and recorded in the run."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ccvid.config import ModelOptions, Recipe
from data_tools.clips import ClipOptions
from data_tools.cpus import available_cpus
from data_tools.progress import message
from data_tools.video import decoder_versions
from ray_jobs.cluster.tasks import results_of
from ray_jobs.cluster.workers import Workers


@dataclass(frozen=True, slots=True)
class Machine:
    """One node, as seen by a worker on it."""

    device: str
    """Name of its GPU or processor."""
    threads: int
    """Threads per worker."""
    bf16_speed: float | None
    """Speed of bfloat16 relative to float32; None: not measured."""
    bf16_pays: bool
    decoders: str
    """Installed decoders with versions."""
    gpu_bytes: int | None = None
    """Memory of its GPU; None: it computes on its processor."""


def look(model: ModelOptions, clip: ClipOptions, use_gpu: bool, cpus: int, try_bf16: bool) -> Machine:
    """Inspect this machine; runs in its own process."""
    device, speed, pays, gpu_bytes = processor_name(), None, False, None
    if use_gpu or try_bf16:
        import torch  # takes seconds, which only this process should spend

        from ccvid.precision import WORTH_IT, bf16_speed

        if use_gpu:
            device, gpu_bytes = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
        if try_bf16:
            speed = bf16_speed(model, clip, torch.device("cuda" if use_gpu else "cpu"))
            pays = speed >= WORTH_IT
    return Machine(
        device=device,
        threads=min(cpus, available_cpus()),
        bf16_speed=speed,
        bf16_pays=pays,
        decoders=", ".join(f"{name} {version}" for name, version in decoder_versions().items()),
        gpu_bytes=gpu_bytes,
    )


def decide_precision(recipe: Recipe, workers: Workers) -> Recipe:
    """:func:`precision_and_memory` where the memory does not matter."""
    return precision_and_memory(recipe, workers)[0]


def precision_and_memory(recipe: Recipe, workers: Workers) -> tuple[Recipe, int | None]:
    """Inspect every node with room for a worker, report the findings, and decide ``train.bf16`` if it is auto.

    A mixed cluster uses bfloat16 only if all kinds of nodes benefit from it.

    Returns:
        The recipe with its precision decided, and the bytes of the smallest GPU; None without GPUs.

    Raises:
        BackboneError: there is no such network.
    """
    asked = recipe.train.bf16
    machines = _look_everywhere(recipe, workers, try_bf16=asked is not False)
    bf16 = all(machine.bf16_pays for machine in machines) if asked == "auto" else asked
    message(_findings(machines, bf16, asked))
    if bf16:
        _warn_of_emulation(machines)
    gpus = [machine.gpu_bytes for machine in machines if machine.gpu_bytes is not None]
    return recipe.with_bf16(bf16), min(gpus, default=None)


def processor_name() -> str:
    """The processor's name from the kernel, or else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _look_everywhere(recipe: Recipe, workers: Workers, *, try_bf16: bool) -> list[Machine]:
    """Run a task on each node. It reserves no CPU, so it need not wait; then its process ends, which frees the GPU."""
    task: Any = ray.remote(num_cpus=0, max_retries=3, max_calls=int(workers.use_gpu))(look)
    arguments = recipe.model, recipe.clip, workers.use_gpu, workers.cpus, try_bf16
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in workers.nodes]
    return results_of([task.options(scheduling_strategy=place).remote(*arguments) for place in places])


def _findings(machines: list[Machine], bf16: bool, asked: object) -> str:
    """The findings on one line; equal nodes are listed once."""
    kinds = {(machine.device, machine.threads, machine.decoders): machine for machine in machines}
    nodes = [
        f"{machine.device}, {machine.threads} thread(s) per worker, {machine.decoders}" for machine in kinds.values()
    ]
    precision = "bfloat16" if bf16 else "float32"
    if asked == "auto" and len({machine.bf16_pays for machine in machines}) > 1:
        slow = sorted({machine.device for machine in machines if not machine.bf16_pays})
        precision += f" on all nodes, because {', '.join(slow)} is not faster in bfloat16"
    return f"found: {'; '.join(nodes)}; computing in {precision}"


def _warn_of_emulation(machines: list[Machine]) -> None:
    slowest = min(machines, key=lambda machine: machine.bf16_speed or 0)
    speed = slowest.bf16_speed or 0
    if speed < 1:
        times = f"takes {1 / speed:.1f} times as long as in float32" if speed > 0 else "is emulated"
        message(f"warning: on {slowest.device}, a step in bfloat16 {times}; use --train.bf16 auto for float32")
