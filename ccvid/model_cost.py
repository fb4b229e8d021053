"""What a network costs: the time of a clip on this machine, parameters and FLOPs."""

from __future__ import annotations

import statistics
import time

import torch
from pydantic import Field

from ccvid.model import ReIdModel
from ccvid.onnx_model import OnnxModel
from ccvid.retrieval.embedding.clip_embedder import ClipEmbedder
from data_tools.cpus import processor
from data_tools.options import Options
from video_backbones.summary import count_flops, count_parameters

CLIPS_AT_A_TIME = {"cpu": 4, "cuda": 32}
LEAST_REPEATS, MOST_REPEATS, ENOUGH_SECONDS = 3, 50, 2.0
"""A measurement ends after ``ENOUGH_SECONDS`` if it has the least number of repeats."""


class ModelCost(Options):
    """The forward pass of a network, without decoding."""

    milliseconds: float = Field(gt=0)
    """For one clip: the median of some batches, divided by their size."""
    batch: int = Field(ge=1)
    """Clips at a time."""
    parameters: int | None = Field(ge=0)
    flops: int | None = Field(ge=0)
    """Of one clip; a multiply-add counts as two."""
    clip: tuple[int, int, int]
    """Frames, height and width."""
    machine: str
    """Where the time was measured, and in which precision."""


def measure_cost(embedder: ClipEmbedder, clip_size: tuple[int, int, int], device: str) -> ModelCost:
    """Count and time the forward pass of clips of (T, H, W); the network is left on ``device``.

    Args:
        device: cpu or cuda; a graph in ONNX runs where onnxruntime puts it.

    Raises:
        InputError: a graph does not take such clips.
    """
    parameters, flops, precision = None, None, "the graph's own precision"
    if isinstance(embedder, OnnxModel):
        parameters = embedder.parameters
    elif isinstance(embedder, ReIdModel):
        parameters, flops = count_parameters(embedder.backbone), count_flops(embedder.backbone, clip_size)
        precision = str(embedder.autocast_dtype or torch.float32).removeprefix("torch.")
        embedder.to(device)
    batch = CLIPS_AT_A_TIME[embedder.device.type]
    name = torch.cuda.get_device_name() if embedder.device.type == "cuda" else processor()
    return ModelCost(
        milliseconds=1000 * _seconds(embedder, clip_size, batch) / batch,
        batch=batch,
        parameters=parameters,
        flops=flops,
        clip=clip_size,
        machine=f"{name}, {precision}",
    )


def _seconds(embedder: ClipEmbedder, clip_size: tuple[int, int, int], batch: int) -> float:
    """The median time of a batch of random clips, after a first one."""
    frames, height, width = clip_size
    frames_BTCHW = torch.randint(0, 256, (batch, frames, 3, height, width), dtype=torch.uint8).to(embedder.device)
    taken: list[float] = []
    with torch.no_grad():
        embedder.embed_frames(frames_BTCHW)
        while len(taken) < LEAST_REPEATS or (sum(taken) < ENOUGH_SECONDS and len(taken) < MOST_REPEATS):
            started = time.perf_counter()
            embedder.embed_frames(frames_BTCHW).cpu()  # waits for the GPU
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)
