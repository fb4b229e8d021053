"""Non-local blocks: every position of a clip attends to all others (Wang, Girshick, Gupta, He, CVPR 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, scaled_dot_product_attention

from video_backbones.clip_blocks import ClipLayer, Pointwise, as_map, by_position


class NonLocalBlock(ClipLayer):
    """x + BatchNorm(W softmax(theta phi^T) g): the embedded Gaussian form, C / 2 channels inside.

    phi and g are max-pooled 2 x 2 in space. The last BatchNorm, and so the whole branch, is initialised to zero. The
    softmax over T * P / 4 positions is computed in blocks: the (T * P) x (T * P / 4) affinity is not stored.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.g = nn.Sequential(Pointwise(channels, inner, bias=True))
        self.theta = Pointwise(channels, inner, bias=True)
        self.phi = nn.Sequential(Pointwise(channels, inner, bias=True))
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)
        self.W = nn.Sequential(Pointwise(inner, channels, bias=True), norm)
        for module in self.modules():
            if isinstance(module, Pointwise) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x_NCHW: Tensor, frames: int) -> Tensor:
        """(B * T, C, H, W) -> the same shape."""
        height = x_NCHW.shape[2]
        x_NPC = by_position(x_NCHW)
        query_BQC = _by_clip(self.theta(x_NPC), frames)
        key_BKC = _by_clip(_pooled(self.phi(x_NPC), height), frames)
        value_BKC = _by_clip(_pooled(self.g(x_NPC), height), frames)
        # One head: ONNX export needs the head dimension.
        seen_BQC = scaled_dot_product_attention(query_BQC[:, None], key_BKC[:, None], value_BKC[:, None], scale=1.0)[
            :, 0
        ]
        seen_NPC = self.W[0](torch.unflatten(seen_BQC, 1, (frames, -1)).flatten(0, 1))
        branch_NCHW: Tensor = self.W[1](as_map(seen_NPC, height))
        return x_NCHW + branch_NCHW


def _by_clip(x_NPC: Tensor, frames: int) -> Tensor:
    """(B * T, P, C) -> (B, T * P, C)."""
    return torch.unflatten(x_NPC, 0, (-1, frames)).flatten(1, 2)


def _pooled(x_NPC: Tensor, height: int) -> Tensor:
    """Max over 2 x 2 positions; an axis of length 1 is kept."""
    map_NCHW = as_map(x_NPC, height)
    rows, columns = map_NCHW.shape[2:]
    return by_position(max_pool2d(map_NCHW, (min(2, rows), min(2, columns))))
