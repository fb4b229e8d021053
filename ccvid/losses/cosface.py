"""CosFace: softmax over scaled cosines, with a margin subtracted from the target's."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot


def cosface_loss(cosine_BC: Tensor, class_B: Tensor, *, scale: float, margin: float = 0.0) -> Tensor:
    """Mean cross-entropy of `scale * (cosine - margin at the target)` (Wang et al., CVPR 2018, equation 4).

    CAL trains its clothes classifier with this loss, at scale 16 and margin 0.

    Args:
        cosine_BC: (B, C) cosines in [-1, 1].
        class_B: (B,) int64 classes in [0, C).
        scale: Above 0.
        margin: In [0, 1).
    """
    target_BC = one_hot(class_B, cosine_BC.shape[1]).to(cosine_BC.dtype)
    return cross_entropy(scale * (cosine_BC - margin * target_BC), class_B)
