"""Who sees whom: functions of queries, keys and values, each (B, heads, N, E) -> (B, heads, N, E).

The N tokens are [first, patches, class] throughout this package, so that each head token together with the patches is
one slice, which costs no copy. First is the colour token, or in the video way the frame's message from its clip; the
released order, and that of all parameters, is [first, class, patches].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from video_backbones.choices import AttentionName

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def joint(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every token sees all. Any N >= 1."""
    return scaled_dot_product_attention(query, key, value)


def s2a(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One attention for each head token and the patches; a patch gets the mean of its outputs in the two.

    It is no masked softmax: a patch's weights are the mean of two, each of which sums to 1.
    """
    first, last = (
        scaled_dot_product_attention(query[:, :, seen], key[:, :, seen], value[:, :, seen])
        for seen in (slice(None, -1), slice(1, None))
    )
    patches = (first[:, :, 1:] + last[:, :, :-1]) / 2
    return torch.cat((first[:, :, :1], patches, last[:, :, -1:]), dim=2)


def masked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One softmax in which the two head tokens do not see each other: the paper's ablation."""
    visible_NN = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool, device=query.device)
    visible_NN[0, -1] = visible_NN[-1, 0] = False
    return scaled_dot_product_attention(query, key, value, attn_mask=visible_NN)


ATTENTION: Mapping[AttentionName, Attend] = {"s2a": s2a, "masked": masked, "joint": joint}
"""The ways in which an image's tokens may see each other."""
