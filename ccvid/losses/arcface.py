"""ArcFace: softmax over scaled cosines, with a margin added to the target's angle."""

from __future__ import annotations

import math

from torch import Tensor, where
from torch.nn.functional import cross_entropy, one_hot


def arcface_loss(cosine_BC: Tensor, class_B: Tensor, *, scale: float, margin: float) -> Tensor:
    """Mean cross-entropy of `scale * cos(theta + margin)` at the target, `scale * cos(theta)` elsewhere.

    (Deng et al., CVPR 2019, equation 3.) Beyond theta = pi - margin, where cos(theta + margin) would rise again, the
    target uses `cos(theta) - margin * sin(margin)`. The gradient is finite even at cosines of 1 and -1.

    Args:
        cosine_BC: (B, C) cosines in [-1, 1], floating point.
        class_B: (B,) int64 classes in [0, C).
        scale: Above 0.
        margin: In radians, in [0, pi).
    """
    sine_BC = (1 - cosine_BC.square()).clamp(min=1e-12).sqrt()
    further_BC = cosine_BC * math.cos(margin) - sine_BC * math.sin(margin)
    target_BC = where(
        cosine_BC > math.cos(math.pi - margin), further_BC, cosine_BC - margin * math.sin(math.pi - margin)
    )
    is_target_BC = one_hot(class_B, cosine_BC.shape[1]).bool()
    return cross_entropy(scale * where(is_target_BC, target_BC, cosine_BC), class_B)
