"""Transforms of a clip: resizing, one random augmentation per clip, and normalisation on the device.

Clips are uint8, channels last in memory: ``(…, C, H, W)`` is a view of ``(…, H, W, C)``, as decoders produce and
channels-last convolutions expect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from data_tools.loading_options import AugmentOptions, ResizeFilter

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ERASED_RGB = (152, 144, 129)
"""The grey that the released code erases with: 0.4914, 0.4822, 0.4465 *after* normalisation."""


def resize(
    picture_HWC: NDArray[np.uint8], height: int, width: int, resize_filter: ResizeFilter = "bicubic"
) -> NDArray[np.uint8]:
    """Resize with PIL's antialiasing, so that the pixels equal those of the released code.

    torchvision is six times faster, but differs by 1 to 11 grey levels depending on the sizes. Resize when sharding.
    """
    resampling = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[resize_filter]
    return np.asarray(Image.fromarray(picture_HWC).resize((width, height), resampling))


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Changes to one clip, in this order; None: no such change."""

    crop: tuple[int, int] | None = None
    """Top and left of the crop in the enlarged clip."""
    flip: bool = False
    erase: tuple[int, int, int, int] | None = None
    """Top, left, height and width of the erased rectangle."""


def draw_augmentation(options: AugmentOptions, height: int, width: int, rng: np.random.Generator) -> Augmentation:
    """Draw the augmentation of a clip of this size."""
    return Augmentation(
        crop=_draw_place(height, width, *_enlarged(height, width), rng) if rng.random() < options.crop else None,
        flip=rng.random() < options.flip,
        erase=_draw_rectangle(height, width, rng) if rng.random() < options.erase else None,
    )


def augment_(clip_TCHW: Tensor, augmentation: Augmentation) -> None:
    """Augment a uint8 clip in place, all frames alike."""
    height, width = clip_TCHW.shape[-2:]
    if augmentation.crop:
        larger = _enlarged(height, width)
        enlarged = v2.resize(clip_TCHW, list(larger), InterpolationMode.BILINEAR, antialias=True)
        clip_TCHW.copy_(v2.crop(enlarged, *augmentation.crop, height, width))
    if augmentation.flip:
        clip_TCHW.copy_(v2.horizontal_flip(clip_TCHW))
    if augmentation.erase:
        grey = torch.tensor(ERASED_RGB, dtype=torch.uint8)[:, None, None]
        v2.erase(clip_TCHW, *augmentation.erase, grey, inplace=True)


def _enlarged(height: int, width: int) -> tuple[int, int]:
    return round(height * 1.125), round(width * 1.125)


def _draw_place(height: int, width: int, in_height: int, in_width: int, rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(in_height - height + 1)), int(rng.integers(in_width - width + 1))


def _draw_rectangle(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """Random erasing (arXiv 1708.04896): area 0.02 … 0.4, aspect 0.3 … 1 / 0.3, drawn until it fits."""
    for _ in range(100):
        area, aspect = rng.uniform(0.02, 0.4) * height * width, rng.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            return *_draw_place(h, w, height, width, rng), h, w
    return None


def normalise(frames_BTCHW: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 RGB → (x / 255 − mean) / std with ImageNet's mean and std, on the frames' device, in one pass.

    The memory layout is kept, so that folded frames stay channels-last. Computed in float32 (or float64, if that is
    ``dtype``), then converted to ``dtype``.
    """
    scale, shift = _scale_and_shift(frames_BTCHW.device, torch.float64 if dtype == torch.float64 else torch.float32)
    return torch.addcmul(shift, frames_BTCHW, scale).to(dtype)


@cache
def _scale_and_shift(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cached per device: a copy to a GPU for every batch would wait for the GPU."""
    mean = torch.tensor(IMAGENET_MEAN, dtype=dtype, device=device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, dtype=dtype, device=device).view(3, 1, 1)
    return 1 / (255 * std), -mean / std
