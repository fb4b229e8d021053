"""Pair losses: each sample of a batch against all others, by the cosine of their L2-normalised features.

P_i are the other samples of i's person, N_i the samples of other persons, c_ij cosines. With several ranks, the batch
is that of all ranks together. Triplet and circle come from pytorch-metric-learning. Its contrastive loss of this form
(NTXentLoss) compares every positive pair with every negative one, which takes 5.5 s and gigabytes for 256 samples; it
has no pairwise CosFace.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus


def triplet_loss(feature_BD: Tensor, person_B: Tensor, *, margin: float) -> Tensor:
    """Batch-hard triplet loss on the distance 1 - c (Hermans et al., 2017).

    `mean_i relu(margin + max_{p in P_i} (1 - c_ip) - min_{n in N_i} (1 - c_in))` over the samples that have both; 0
    if none has.

    Args:
        feature_BD: (B, D) features of any length, floating point.
        person_B: (B,) int64 person classes.
        margin: In [0, 2].
    """
    # Imported here because it takes seconds, which only runs with these losses should pay.
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner
    from pytorch_metric_learning.reducers import MeanReducer

    distance = CosineSimilarity()
    triplets = BatchHardMiner(distance=distance)(feature_BD, person_B)
    loss: Tensor = TripletMarginLoss(margin, distance=distance, reducer=MeanReducer())(feature_BD, person_B, triplets)
    return loss


def contrastive_loss(feature_BD: Tensor, person_B: Tensor, *, scale: float) -> Tensor:
    """Each positive alone against all negatives: `-log(exp(s c_ip) / (exp(s c_ip) + sum_{n in N_i} exp(s c_in)))`.

    Averaged over P_i, then over the samples that have positives; 0 if none has. A sample without negatives counts as 0.

    Args:
        feature_BD: (B, D) features of any length, floating point.
        person_B: (B,) int64 person classes.
        scale: s, above 0.
    """
    cosine_BB, positive_BB, negative_BB = _pairs(feature_BD, person_B)
    logits_BB = scale * cosine_BB
    negatives_B1 = logits_BB.masked_fill(~negative_BB, -torch.inf).logsumexp(dim=1, keepdim=True)
    loss_BB = torch.logaddexp(logits_BB, negatives_B1) - logits_BB
    positives_B = positive_BB.sum(dim=1)
    loss_B = (loss_BB * positive_BB).sum(dim=1) / positives_B.clamp(min=1)
    return loss_B.sum() / (positives_B > 0).sum().clamp(min=1)


def pair_cosface_loss(feature_BD: Tensor, person_B: Tensor, *, scale: float, margin: float) -> Tensor:
    """`mean_i softplus(LSE_{n in N_i} s (c_in + margin) + LSE_{p in P_i} -s c_ip)`, LSE the log of summed exponentials.

    A sample without positives or without negatives counts as 0.

    Args:
        feature_BD: (B, D) features of any length, floating point.
        person_B: (B,) int64 person classes.
        scale: s, above 0.
        margin: In [0, 2].
    """
    cosine_BB, positive_BB, negative_BB = _pairs(feature_BD, person_B)
    negatives_B = (scale * (cosine_BB + margin)).masked_fill(~negative_BB, -torch.inf).logsumexp(dim=1)
    positives_B = (-scale * cosine_BB).masked_fill(~positive_BB, -torch.inf).logsumexp(dim=1)
    return softplus(negatives_B + positives_B).mean()


def pair_circle_loss(feature_BD: Tensor, person_B: Tensor, *, scale: float, margin: float) -> Tensor:
    """`mean_i softplus(LSE_{n in N_i} a_in (c_in - margin) + LSE_{p in P_i} a_ip (1 - margin - c_ip))`.

    (Sun et al., CVPR 2020, equation 6.) `a_in = s relu(c_in + margin)` and `a_ip = s relu(1 + margin - c_ip)` pass no
    gradient. A sample without positives or without negatives counts as 0.

    Args:
        feature_BD: (B, D) features of any length, floating point.
        person_B: (B,) int64 person classes.
        scale: s, above 0.
        margin: In [0, 1).
    """
    from pytorch_metric_learning.losses import CircleLoss  # as above
    from pytorch_metric_learning.reducers import MeanReducer

    loss: Tensor = CircleLoss(m=margin, gamma=scale, reducer=MeanReducer())(feature_BD, person_B)
    return loss


def _pairs(feature_BD: Tensor, person_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines (B, B), and masks of the pairs of one person (except a sample with itself) and of two persons."""
    feature_BD = normalize(feature_BD)
    same_BB = person_B[:, None] == person_B
    itself_BB = torch.eye(len(person_B), dtype=torch.bool, device=person_B.device)
    return feature_BD @ feature_BD.T, same_BB & ~itself_BB, ~same_BB
