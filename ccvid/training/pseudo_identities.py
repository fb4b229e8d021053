"""Persons that are found in the training tracklets themselves: groups of similar ones, and their mean features.

Shape letters: N training tracklets, M centroids (at most N), B clips, D features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from ccvid.cluster_contrast_options import ClusterContrastOptions
from ccvid.retrieval.gallery.clusters import Presence, find_clusters
from ccvid.retrieval.gallery.vectors import MatrixVectors
from ccvid.retrieval.ranking.distances import Floats, Indices
from data_tools.errors import InputError

Vectors32 = npt.NDArray[np.float32]

SHORTEST = 1e-5
"""Of unit vectors less their mean: what is shorter is rounding."""


class PseudoIdentities(nn.Module):
    """The class of each training tracklet, and the centroids of each class's tracklets of each camera.

    All of it is in the checkpoint: a resumed run goes on with the classes that were in force. Until classes are set,
    each tracklet is one.

    Args:
        camera_N: int64 camera of each tracklet; all alike compares across cameras.
        momentum: Share of an old centroid that an update keeps, in [0, 1).
    """

    class_N: Tensor
    class_M: Tensor
    camera_M: Tensor
    centroid_MD: Tensor
    groupings: Tensor
    """How often groups were found, and how often they were refused, counted by rank 0."""
    refused: Tensor
    camera_N: Tensor

    def __init__(self, feature_size: int, camera_N: Tensor, *, momentum: float) -> None:
        super().__init__()
        tracklets = len(camera_N)
        self.momentum = momentum
        self.cameras = int(camera_N.max()) + 1 if tracklets else 1
        self.register_buffer("class_N", torch.arange(tracklets))
        self.register_buffer("class_M", torch.full((tracklets,), -1))
        self.register_buffer("camera_M", torch.full((tracklets,), -1))
        self.register_buffer("centroid_MD", torch.zeros(tracklets, feature_size))
        self.register_buffer("groupings", torch.zeros((), dtype=torch.int64))
        self.register_buffer("refused", torch.zeros((), dtype=torch.int64))
        self.register_buffer("camera_N", camera_N, persistent=False)

    def set_classes(self, class_N: Indices, embedding_ND: Tensor) -> None:
        """Begin anew with these classes, numbered from 0; centroids are the directions of their mean embeddings."""
        classes, camera_N = torch.from_numpy(class_N), self.camera_N.cpu()
        pair_M, place_N = torch.unique(classes * self.cameras + camera_N, return_inverse=True)
        sum_MD = torch.zeros(len(pair_M), embedding_ND.shape[1]).index_add(0, place_N, embedding_ND.cpu())
        self.class_N.copy_(classes)
        self.class_M.fill_(-1)[: len(pair_M)] = (pair_M // self.cameras).to(self.class_M.device)
        self.camera_M.fill_(-1)[: len(pair_M)] = (pair_M % self.cameras).to(self.camera_M.device)
        self.centroid_MD.zero_()[: len(pair_M)] = normalize(sum_MD).to(self.centroid_MD.device)

    def cosines(self, feature_BD: Tensor) -> Tensor:
        """(B, D) -> (B, M) cosines with the centroids, which are held fixed."""
        return linear(normalize(feature_BD), self.centroid_MD)

    def own(self, tracklet_B: Tensor) -> Tensor:
        """(B, M) bool: the centroids of each clip's class."""
        return self.class_N[tracklet_B][:, None] == self.class_M

    @torch.no_grad()
    def learn(self, feature_BD: Tensor, tracklet_B: Tensor) -> None:
        """Draw the centroids of class and camera to the clips of all ranks: their mean direction, with momentum.

        Sums are matrix products, without atomic additions, so that the memory is bit-identical on all ranks.
        """
        own_BM = self.own(tracklet_B) & (self.camera_N[tracklet_B][:, None] == self.camera_M)
        member_BM = own_BM.to(self.centroid_MD.dtype)
        count_M1 = member_BM.sum(dim=0)[:, None]
        mean_MD = member_BM.T @ normalize(feature_BD.to(self.centroid_MD.dtype)) / count_M1.clamp(min=1)
        moved_MD = normalize(self.momentum * self.centroid_MD + (1 - self.momentum) * mean_MD)
        self.centroid_MD.copy_(torch.where(count_M1 > 0, moved_MD, self.centroid_MD))


def group_by_colours(
    colours_ND: Floats, camera_N: Indices, presence: Presence, options: ClusterContrastOptions
) -> Indices:
    """Outfits: the class of each tracklet by the colours of its clothes, as ``group_tracklets`` numbers them.

    Args:
        colours_ND: see ``colour_histograms``.

    Raises:
        InputError: one holds more than ``collapsed_share`` of the tracklets.
    """
    colours_ND = without_cameras(colours_ND.astype(np.float32), camera_N)
    return _classes(colours_ND, presence, options, "outfit_neighbours", options.outfit_neighbours)


def group_tracklets(
    embedding_ND: Vectors32, camera_N: Indices, presence: Presence, options: ClusterContrastOptions, outfit_N: Indices
) -> Indices:
    """Persons: the class of each tracklet, (N,) int64 from 0: groups, the largest first, then tracklets in none, each
    alone.

    Embeddings are compared without what those of one camera have in common, and by heads as means of each outfit: in
    the same clothes, a person is known from other sides. Two tracklets that are in view at the same time in the same
    video are never one person.

    Args:
        outfit_N: see ``group_by_colours``.

    Raises:
        InputError: no group was found, or one holds more than ``collapsed_share`` of the tracklets.
    """
    compared_ND = without_cameras(embedding_ND, camera_N)
    if options.by_head:
        sum_OD = np.zeros((outfit_N.max() + 1, compared_ND.shape[1]), np.float32)
        np.add.at(sum_OD, outfit_N, compared_ND)
        compared_ND = sum_OD[outfit_N]
    class_N = _classes(compared_ND, presence, options, "neighbours", options.neighbours)
    if len(np.unique(class_N)) == len(class_N):
        section = "--method.cluster_contrast"
        raise InputError(
            f"0 groups in {len(class_N)} tracklets: none are alike. Raise {section}.reach from {options.reach}, or "
            f"lower {section}.least from {options.least}; if each person has one tracklet, there is nothing to group"
        )
    return class_N


def _classes(
    compared_ND: Vectors32, presence: Presence, options: ClusterContrastOptions, setting: str, neighbours: int
) -> Indices:
    """Groups and single tracklets; ``setting`` names the option that says how many neighbours must be mutual."""
    clusters = find_clusters(
        MatrixVectors(compared_ND),
        presence,
        reach=options.reach,
        least=options.least,
        k1=neighbours,
        k2=options.averaged_neighbours,
    )
    largest = int((clusters.group_N == 0).sum())
    if largest > options.collapsed_share * len(compared_ND):
        section = "--method.cluster_contrast"
        by_network = setting == "neighbours"
        later = f", or group later, with {section}.start_epoch above {options.start_epoch}" if by_network else ""
        raise InputError(
            f"{clusters.groups} groups in {len(compared_ND)} tracklets: one of them holds {largest}, more than "
            f"{section}.collapsed_share {options.collapsed_share}, learned as one. Lower "
            f"{section}.reach from {options.reach} or {section}.{setting} from {neighbours}{later}"
        )
    alone_N = clusters.group_N < 0
    return np.where(alone_N, clusters.groups - 1 + np.cumsum(alone_N), clusters.group_N)


def without_cameras(embedding_ND: Vectors32, camera_N: Indices) -> Vectors32:
    """Embeddings less the mean of their camera's; those that equal it stay as they are, for they would vanish."""
    centred_ND = embedding_ND.copy()
    for camera in np.unique(camera_N):
        own = camera_N == camera
        centred_ND[own] -= embedding_ND[own].mean(axis=0)
    vanished_N = np.linalg.norm(centred_ND, axis=1) < SHORTEST
    centred_ND[vanished_N] = embedding_ND[vanished_N]
    return centred_ND
