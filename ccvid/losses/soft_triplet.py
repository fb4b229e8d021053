"""Batch-hard triplet loss with a soft margin, on Euclidean distances."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ccvid.losses.vectors import precise


def soft_triplet_loss(feature_BD: Tensor, person_B: Tensor) -> Tensor:
    """Mean over B of `log(1 + exp(d_p - d_n))`: the furthest sample of the person, the nearest of all others.

    (Hermans et al., 2017, their "soft margin"; CSCI trains with it.) Distances are Euclidean, between features as they
    are, and at least 1e-6: below, they have no gradient. A sample is a positive of itself, so that a person seen once
    only moves away from others. A sample without others, in a batch of one person, counts as 0. Any number of samples
    of a person. Samples at the same distance share the gradient. Computed in at least float32, from differences: no
    digits are lost where features are long and close. Memory is O(B^2), on a GPU O(B^2 * D) in the backward pass.

    Args:
        feature_BD: (B, D) features of any length, floating point.
        person_B: (B,) int64 person classes.
    """
    feature_BD = precise(feature_BD)
    exact = "donot_use_mm_for_euclid_dist"
    distance_BB = torch.cdist(feature_BD, feature_BD, compute_mode=exact).clamp(min=1e-6)
    same_BB = person_B[:, None] == person_B
    furthest_B = distance_BB.masked_fill(~same_BB, 0).amax(dim=1)
    nearest_B = distance_BB.masked_fill(same_BB, torch.inf).amin(dim=1)
    return -logsigmoid(nearest_B - furthest_B).mean()
