"""Whether a device is faster in bfloat16 than in float32, measured with the network itself."""

from __future__ import annotations

import time

import torch

from ccvid.config import ModelOptions
from ccvid.model import ReIdModel
from ccvid.trained_model import configured_backbone
from data_tools.clips import ClipOptions
from video_backbones.backbone import VideoBackbone

SECONDS = 0.3
"""How long each precision is timed, after one warm-up step."""
WORTH_IT = 1.1
"""bfloat16 is used from this speed on, relative to float32; above 1 so that noise does not decide."""
EMULATED = 0.3
"""Only a CPU that emulates bfloat16 is slower than this; the measurement ends early."""
TRIED_PICTURES = (64 * 32, 128 * 64)
"""Most pixels per frame in each round of the measurement: small frames soon reveal emulation."""


def bf16_speed(options: ModelOptions, clip: ClipOptions, device: torch.device) -> float:
    """Speed of a training step in bfloat16 on ``device``, relative to float32.

    For a GPU, infinity if it supports bfloat16, else 0. On a CPU, a few steps of the recipe's backbone are timed with
    two small clips on one thread, for a second or two of CPU time.

    Raises:
        BackboneError: there is no such backbone.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return float("inf") if torch.cuda.is_bf16_supported(including_emulation=False) else 0.0
    threads, speed = torch.get_num_threads(), 0.0
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):  # a run's initial weights must depend on its seed alone
            for frames, pixels in enumerate(TRIED_PICTURES, start=1):
                speed = _speed(*_small_network(options, clip, frames, pixels))
                if speed < EMULATED:
                    break
    finally:
        torch.set_num_threads(threads)
    return speed


def _small_network(
    options: ModelOptions, clip: ClipOptions, frames: int, pixels: int
) -> tuple[VideoBackbone, torch.Tensor]:
    """The backbone with random weights and two clips of at most ``frames``, smaller than the recipe's if possible."""
    height, width = options.height, options.width
    while height * width > pixels and height % 32 == width % 32 == 0:
        height, width = height // 2, width // 2
    small = options.model_copy(update={"height": height, "width": width, "weights": "random"})
    short = clip.model_copy(update={"length": min(frames, clip.length)})
    return configured_backbone(small, short), torch.rand(2, short.length, 3, height, width)


def _speed(backbone: VideoBackbone, frames_BTCHW: torch.Tensor) -> float:
    float32, bf16 = (ReIdModel(backbone, torch.nn.Identity(), autocast_dtype=dtype) for dtype in (None, torch.bfloat16))
    _step_seconds(float32, frames_BTCHW)
    fastest = _fastest_step_seconds(float32, frames_BTCHW)
    first = _step_seconds(bf16, frames_BTCHW)
    return fastest / (first if fastest < EMULATED / 2 * first else _fastest_step_seconds(bf16, frames_BTCHW))


def _fastest_step_seconds(model: ReIdModel, frames_BTCHW: torch.Tensor) -> float:
    started, fastest = time.thread_time(), float("inf")
    while time.thread_time() - started < SECONDS or fastest == float("inf"):
        fastest = min(fastest, _step_seconds(model, frames_BTCHW))
    return fastest


def _step_seconds(model: ReIdModel, frames_BTCHW: torch.Tensor) -> float:
    """CPU time of a step, so that other work on the machine does not count."""
    before = time.thread_time()
    model.embed(frames_BTCHW).sum().backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    return time.thread_time() - before
