"""AP3D: a temporal convolution over neighbour frames that are first aligned to the frame itself.

Gu, Chang, Ma, Zhang, Chen: Appearance-Preserving 3D Convolution for Video-based Person Re-identification, ECCV 2020;
variant C with contrastive attention. Shape letters as in `clip_blocks`; R = C / 16 embedding channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from video_backbones.clip_blocks import ClipConvolution, Pointwise, as_map, by_position

TEMPERATURE = 4.0


class AppearancePreserving(nn.Module):
    """APM: both neighbours of every frame, reassembled position by position to match it.

    Each position of a frame gets the mean of the neighbour's features, weighted by the softmax of the cosine between
    semantic embeddings. Then a gate in (0, 1) suppresses what still does not match; it is computed from detached
    embeddings of frame and neighbour. A neighbour beyond the clip's ends is zero and stays zero, so it is not
    computed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.semantic_mapping = Pointwise(channels, channels // 16)
        self.x_mapping = Pointwise(channels, channels // 16)
        self.n_mapping = Pointwise(channels, channels // 16)
        self.contrastive_att_net = nn.Sequential(Pointwise(channels // 16, 1), nn.Sigmoid())

    def forward(self, x_BTPC: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, P, C) -> previous frames for frames 1 ..., following frames for frames ... T - 2.

        Both are (B, T - 1, P, C). A pair of frames shares one affinity matrix: its rows weight one neighbour, its
        columns the other.
        """
        earlier, later = x_BTPC[:, :-1], x_BTPC[:, 1:]
        semantic_BTPR = normalize(self.semantic_mapping(x_BTPC), dim=-1)
        affinity_BTPP = TEMPERATURE * semantic_BTPR[:, :-1] @ semantic_BTPR[:, 1:].mT
        following = affinity_BTPP.softmax(-1) @ later
        previous = affinity_BTPP.softmax(-2).mT @ earlier
        own_BTPR = self.x_mapping(x_BTPC.detach())
        return self._gated(previous, own_BTPR[:, 1:]), self._gated(following, own_BTPR[:, :-1])

    def _gated(self, neighbour_BTPC: Tensor, own_BTPR: Tensor) -> Tensor:
        gate_BTP1: Tensor = self.contrastive_att_net(own_BTPR * self.n_mapping(neighbour_BTPC.detach()))
        return gate_BTP1 * neighbour_BTPC


class AppearancePreservingConvolution(ClipConvolution):
    """AP3D, variant C: y = 1 x 3 x 3 convolution; y + 3 x 1 x 1 convolution of APM's previous, own, following frames.

    The temporal kernel is initialised to zero, so that the layer starts as the image convolution it replaces. It is
    applied slice by slice to existing frames; the sequence of 3 T frames is never materialised.

    Args:
        image: The 3 x 3 convolution that becomes the spatial one.
    """

    image_kernel = "spatial_conv3d.weight"

    def __init__(self, image: nn.Conv2d) -> None:
        super().__init__()
        self.APM = AppearancePreserving(image.out_channels)
        self.spatial_conv3d = image
        self.temporal_conv3d = nn.Conv3d(image.out_channels, image.out_channels, (3, 1, 1), bias=False)
        nn.init.zeros_(self.temporal_conv3d.weight)

    def forward(self, x_NCHW: Tensor, frames: int) -> Tensor:
        map_NCHW = self.spatial_conv3d(x_NCHW)
        y_BTPC = torch.unflatten(by_position(map_NCHW), 0, (-1, frames))
        previous, following = self.APM(y_BTPC)
        of_previous, of_own, of_following = self.temporal_conv3d.weight.flatten(2).unbind(2)
        z_BTPC = y_BTPC + y_BTPC @ of_own.mT
        z_BTPC[:, 1:] += previous @ of_previous.mT
        z_BTPC[:, :-1] += following @ of_following.mT
        return as_map(z_BTPC.flatten(0, 1), map_NCHW.shape[2])
