"""Random colours for whole clips, so that a network that must know them again looks at what clothes do not change.

The colours of a clip are changed below the neck, above and below the waist in two different ways, all frames alike.
Heads keep theirs, for hair and skin stay when clothes change. A crop shows a person from head to foot, so neck and
waist are shares of its height, with some chance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ccvid.cluster_contrast_options import RecolouringOptions
from data_tools.transforms import IMAGENET_MEAN

WAIST = 0.5
"""Share of the height of a crop above the waist."""
DEVIATIONS = (0.05, 0.08)
"""Standard deviations of the drawn places of neck and waist, as shares of the height."""
INVERTED = 0.3
"""Probability that a colour channel is inverted."""
GAMMA, MIXING = 0.6, 1.0
"""Standard deviations of the logarithm of a channel's gamma, and of the logits of the shares that make a channel."""


def recoloured(frames_BTCHW: Tensor, options: RecolouringOptions) -> Tensor:
    """Clips with other clothes' colours, and some without anything below the neck.

    Draws from PyTorch's CPU generator, so that the same seed gives the same clips on any device.

    Args:
        frames_BTCHW: uint8 RGB (B, T, 3, H, W).

    Returns:
        uint8, of the same shape.
    """
    clips, height = len(frames_BTCHW), frames_BTCHW.shape[-2]
    device = frames_BTCHW.device
    row_H1 = torch.arange(height, device=device)[:, None]
    neck, waist = (
        ((share + deviation * torch.randn(clips, 1, 1, 1, 1)) * height).to(device)
        for share, deviation in zip((options.neck, WAIST), DEVIATIONS, strict=True)
    )
    changed, hidden = (
        (torch.rand(clips, 1, 1, 1, 1) < share).to(device) for share in (options.share, options.hidden_share)
    )
    given = frames_BTCHW.float() / 255
    clothes = torch.where(row_H1 < waist, _other_colours(given), _other_colours(given))
    found = torch.where(changed & (row_H1 >= neck), clothes, given)
    return (255 * torch.where(hidden & (row_H1 >= neck), _grey(device), found)).round().to(torch.uint8)


def without_bodies(frames_BTCHW: Tensor, options: RecolouringOptions) -> Tensor:
    """uint8 clips (B, T, 3, H, W) with nothing below the neck, drawing nothing."""
    below_H1 = torch.arange(frames_BTCHW.shape[-2], device=frames_BTCHW.device)[:, None]
    below_H1 = below_H1 >= options.neck * frames_BTCHW.shape[-2]
    grey = (255 * _grey(frames_BTCHW.device)).round().to(torch.uint8)
    return torch.where(below_H1, grey, frames_BTCHW)


def _other_colours(given_BTCHW: Tensor) -> Tensor:
    """Channels in [0, 1] exchanged, some inverted, each with a gamma, then mixed: drawn once for each clip."""
    clips, device = len(given_BTCHW), given_BTCHW.device
    order_BC = torch.rand(clips, 3).argsort(dim=1).to(device)
    inverted, gamma = torch.rand(clips, 1, 3, 1, 1) < INVERTED, (GAMMA * torch.randn(clips, 1, 3, 1, 1)).exp()
    share_BCC = (3 * torch.eye(3) + MIXING * torch.randn(clips, 3, 3)).softmax(dim=2).to(device)
    colours = given_BTCHW.gather(2, order_BC[:, None, :, None, None].expand_as(given_BTCHW))
    colours = torch.where(inverted.to(device), 1 - colours, colours) ** gamma.to(device)
    return torch.einsum("bij,btjhw->btihw", share_BCC, colours)


def _grey(device: torch.device) -> Tensor:
    return torch.tensor(IMAGENET_MEAN, device=device)[:, None, None]
