"""Motion loss: the frames of a clip should differ."""

from __future__ import annotations

import torch
from torch import Tensor

from ccvid.losses.vectors import precise


def motion_loss(frame_BTD: Tensor) -> Tensor:
    """`1 / (1 + C + V)`, in (0, 1], 1 for frames that are all alike (EZ-CLIP, Ahmad et al., 2023; used by CSCI).

    C is the mean of `|x_{t+1} - x_{t-1}| / 2` over all t, where the first and the last frame stand in for the frames
    before and after them; V is the mean of the unbiased variance over t. Computed in at least float32.

    Args:
        frame_BTD: (B, T, D) features of the frames in time order, T >= 2, floating point.

    Raises:
        ValueError: T is 1, and a single frame does not move.
    """
    if frame_BTD.shape[1] < 2:
        raise ValueError(f"motion needs clips of 2 or more frames, got {frame_BTD.shape = }")
    frame_BTD = precise(frame_BTD)
    padded_BSD = torch.cat((frame_BTD[:, :1], frame_BTD, frame_BTD[:, -1:]), dim=1)
    change = (padded_BSD[:, 2:] - padded_BSD[:, :-2]).abs().mean() / 2
    return 1 / (1 + change + frame_BTD.var(dim=1).mean())
