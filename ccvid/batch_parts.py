"""A batch computed in parts, one after another, with the losses of the whole batch.

The features of all parts are computed first, then the losses from all features, then each part once more with its
gradient (Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021). Memory is that of
one part, and time that of a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from video_backbones.checkpointing import recomputed

Output = TypeVar("Output", Tensor, tuple[Tensor, ...])


def in_parts(network: nn.Module, compute: Callable[[Tensor], Output], frames: Tensor, parts: int) -> Output:
    """``compute(frames)``, part by part where gradients are asked for.

    Equal to the whole but for the order of sums, if the samples of a batch do not depend on each other. BatchNorm
    within ``compute`` uses the statistics of each part.

    Args:
        network: What ``compute`` runs through; its BatchNorm layers count each part once.
        compute: From (B, …) to a tensor or a named tuple of tensors, (B, …) each.
        parts: Of equal size, if they divide B; at most B.
    """
    if parts == 1 or not torch.is_grad_enabled():
        return compute(frames)
    found: list[Output] = [recomputed(compute, part, network=network) for part in frames.chunk(parts)]
    if isinstance(found[0], Tensor):
        return torch.cat(found)
    return type(found[0])(*map(torch.cat, zip(*found, strict=True)))
