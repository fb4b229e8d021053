"""Circle loss with classes: the further a cosine is from its optimum, the more it weighs."""

from __future__ import annotations

from torch import Tensor, where
from torch.nn.functional import cross_entropy, one_hot


def circle_loss(cosine_BC: Tensor, class_B: Tensor, *, scale: float, margin: float) -> Tensor:
    """Mean cross-entropy of the circle loss's logits (Sun et al., CVPR 2020, equation 7).

    They are `a (cos - (1 - margin))` at the target with `a = scale * relu(1 + margin - cos)`, and
    `a (cos - margin)` elsewhere with `a = scale * relu(cos + margin)`; no gradient flows through a.

    Args:
        cosine_BC: (B, C) cosines in [-1, 1], floating point.
        class_B: (B,) int64 classes in [0, C).
        scale: Above 0.
        margin: In [0, 1).
    """
    held_BC = cosine_BC.detach()
    target_BC = (1 + margin - held_BC).relu() * (cosine_BC - (1 - margin))
    other_BC = (held_BC + margin).relu() * (cosine_BC - margin)
    is_target_BC = one_hot(class_B, cosine_BC.shape[1]).bool()
    return cross_entropy(scale * where(is_target_BC, target_BC, other_BC), class_B)
