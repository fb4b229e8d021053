"""Clips in the clothes of others, so that a network that must know them again looks at what clothes do not change.

What is below the neck comes from another clip of the batch, or is left out. A crop shows a person from head to foot, so
the neck is a share of its height, with some chance: the network sees heads with and without shoulders.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccvid.other_clothes_options import OtherClothesOptions
from data_tools.transforms import IMAGENET_MEAN

DEVIATION = 0.05
"""Standard deviation of the place of the neck, as a share of the height."""


def in_other_clothes(frames_BTCHW: Tensor, options: OtherClothesOptions) -> Tensor:
    """Some clips with the body of another, some of these and of the others with none.

    Draws from PyTorch's CPU generator, so that the same seed gives the same clips on any device.

    Args:
        frames_BTCHW: uint8 RGB (B, T, 3, H, W).

    Returns:
        uint8, of the same shape. With both shares 0 nothing is drawn.
    """
    if options.swapped_share == options.hidden_share == 0:
        return frames_BTCHW
    clips, device = len(frames_BTCHW), frames_BTCHW.device
    other_B = torch.randperm(clips).to(device)
    place_B, swapped_B, hidden_B = torch.randn(clips), torch.rand(clips), torch.rand(clips)
    below = _below((options.neck + DEVIATION * place_B).to(device), frames_BTCHW)
    swapped, hidden = (
        (drawn_B < share).to(device)[:, None, None, None, None]
        for drawn_B, share in ((swapped_B, options.swapped_share), (hidden_B, options.hidden_share))
    )
    found = torch.where(below & swapped, frames_BTCHW[other_B], frames_BTCHW)
    return torch.where(below & hidden, _grey(device), found)


def heads_alone(frames_BTCHW: Tensor, options: OtherClothesOptions) -> Tensor:
    """uint8 clips (B, T, 3, H, W) with nothing below the neck, drawing nothing."""
    neck_B = torch.full((len(frames_BTCHW),), options.neck, device=frames_BTCHW.device)
    return torch.where(_below(neck_B, frames_BTCHW), _grey(frames_BTCHW.device), frames_BTCHW)


def _below(neck_B: Tensor, frames_BTCHW: Tensor) -> Tensor:
    """(B, 1, 1, H, 1) bool: the rows of each clip that are below its neck."""
    height = frames_BTCHW.shape[-2]
    return torch.arange(height, device=neck_B.device)[:, None] >= height * neck_B[:, None, None, None, None]


def _grey(device: torch.device) -> Tensor:
    """The mean colour of pictures, (3, 1, 1) uint8."""
    return (255 * torch.tensor(IMAGENET_MEAN, device=device)[:, None, None]).round().to(torch.uint8)
