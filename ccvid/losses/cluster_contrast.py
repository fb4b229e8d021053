"""Contrast with the mean features of classes: InfoNCE against a memory (Dai et al., ACCV 2022, equation 3), per camera.

Where each class has one centroid for each camera that saw it, a clip is compared camera by camera (the camera proxies
of Wang et al., AAAI 2021): what tells cameras apart then helps nowhere.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

SPARED_OF = 10
"""At most one in so many centroids is spared."""


def cluster_contrast_loss(
    cosine_BM: Tensor, own_BM: Tensor, camera_M: Tensor, cameras: int, *, temperature: float, spared: int = 0
) -> Tensor:
    """`mean_B mean_{m own} -log(exp(c_m / t) / sum_{n of m's camera} exp(c_n / t))`, a scalar.

    With one camera and one own centroid for each clip, this is the ClusterNCE loss of Dai et al.

    Args:
        cosine_BM: (B, M) cosines of clips with centroids, in [-1, 1].
        own_BM: (B, M) bool, the centroids of the clip's class; at least one in each row.
        camera_M: (M,) int64 camera of each centroid, in [0, cameras); a negative one is of none, and compared with
            nothing.
        cameras: Number of cameras.
        temperature: t, above 0.
        spared: Number of centroids of other classes, the nearest to each clip, that it is not pushed away from, for
            they may be of the same person; at most one in `SPARED_OF` of all.
    """
    logits_BM = cosine_BM / temperature
    there_M, camera_M = camera_M >= 0, camera_M.clamp(min=0)
    own_BM = own_BM & there_M
    compared_BM = there_M.expand_as(own_BM)
    if spared:
        compared_BM = compared_BM & ~_nearest_others(cosine_BM.detach(), own_BM, there_M, spared)
    of_camera_MC = one_hot(camera_M, cameras).to(logits_BM.dtype)
    known_BM = logits_BM.detach().masked_fill(~compared_BM, -torch.inf)
    most_BC = known_BM.new_full((len(logits_BM), cameras), -torch.inf)
    most_BC = most_BC.scatter_reduce(1, camera_M.expand_as(known_BM), known_BM, "amax")
    # the largest is subtracted, so that no exponential over- or underflows
    most_BM = most_BC[:, camera_M].masked_fill(~compared_BM, 0)
    sum_BC = (logits_BM - most_BM).masked_fill(~compared_BM, -torch.inf).exp() @ of_camera_MC
    all_BM = sum_BC[:, camera_M].masked_fill(~compared_BM, 1).log() + most_BM
    loss_B = ((all_BM - logits_BM) * own_BM).sum(dim=1) / own_BM.sum(dim=1).clamp(min=1)
    return loss_B.mean()


def _nearest_others(cosine_BM: Tensor, own_BM: Tensor, there_M: Tensor, spared: int) -> Tensor:
    """(B, M) bool: of the centroids of other classes, the ``spared`` nearest to each clip."""
    others_BM = cosine_BM.masked_fill(own_BM | ~there_M, -torch.inf)
    nearest_BS = others_BM.topk(min(spared, others_BM.shape[1]), dim=1).indices
    few_S = torch.arange(nearest_BS.shape[1], device=there_M.device) < there_M.sum() // SPARED_OF
    return torch.zeros_like(own_BM).scatter(1, nearest_BS, few_S.expand_as(nearest_BS)) & ~own_BM
