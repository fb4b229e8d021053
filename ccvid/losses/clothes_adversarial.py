"""The clothes-based adversarial loss of CAL."""

from __future__ import annotations

import torch
from torch import Tensor


def clothes_adversarial_loss(
    cosine_BC: Tensor,
    clothes_B: Tensor,
    same_person_BC: Tensor,
    known_C: Tensor | None = None,
    *,
    epsilon: float = 0.1,
    scale: float = 16.0,
) -> Tensor:
    """Multi-positive cross-entropy that makes one person's outfits indistinguishable (CAL, Gu et al., CVPR 2022).

    A sample's positive classes are the K outfits of its person; its negatives are all outfits of others. Each
    positive c is compared with the negatives only,
    `log p(c) = s cos_c - log(exp(s cos_c) + sum_negatives exp(s cos_j))`,
    and has weight `q(c) = 1 - epsilon + epsilon/K` if it is the outfit worn, `epsilon/K` if not. The loss is the
    mean over the samples of `-sum_c q(c) log p(c)`. Time and memory are O(B * C).

    Args:
        cosine_BC: (B, C) cosines between features and clothes classes.
        clothes_B: (B,) int64, the class worn; it must be one of the person's.
        same_person_BC: (B, C) bool, True where the class belongs to the sample's person.
        known_C: (C,) bool, True for the classes to use, which must include every worn one; None: all.
        epsilon: In [0, 1]: 0 uses the worn outfit only, 1 weighs all of the person's outfits equally.
        scale: s, above 0.
    """
    logits_BC = scale * cosine_BC
    negative_BC = ~same_person_BC
    if known_C is not None:
        same_person_BC, negative_BC = same_person_BC & known_C, negative_BC & known_C
    negatives_B1 = logits_BC.masked_fill(~negative_BC, -torch.inf).logsumexp(dim=1, keepdim=True)
    log_p_BC = logits_BC - torch.logaddexp(logits_BC, negatives_B1)
    mean_B = (log_p_BC * same_person_BC).sum(dim=1) / same_person_BC.sum(dim=1)
    worn_B = log_p_BC.gather(1, clothes_B[:, None]).squeeze(1)
    return -(epsilon * mean_B + (1 - epsilon) * worn_B).mean()
