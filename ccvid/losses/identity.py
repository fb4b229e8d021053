"""Identity loss: cross-entropy over the training persons."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy


def identity_loss(logits_BP: Tensor, person_B: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy; a smoothed target is `1 - s + s/P` for the person and `s/P` for every other.

    Args:
        logits_BP: (B, P) logits, floating point.
        person_B: (B,) int64 person classes in [0, P).
        label_smoothing: s in [0, 1] (Szegedy et al., CVPR 2016); recipes with smoothing use 0.1.
    """
    return cross_entropy(logits_BP, person_B, label_smoothing=label_smoothing)
