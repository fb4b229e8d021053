"""Layers in which the frames of a clip interact, inside a network of 2-D convolutions over folded frames.

Shape letters: B clips, T frames, N = B * T folded frames; C, D channels in and out; H and W; P = H * W positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from torchvision.models.resnet import Bottleneck


class ClipLayer(nn.Module, ABC):
    """A layer that needs to know where one clip ends and the next begins."""

    @abstractmethod
    def forward(self, x_NCHW: Tensor, frames: int) -> Tensor:
        """(B * T, C, H, W) -> (B * T, D, H', W'), both channels-last; `frames` is T >= 1."""


class ClipConvolution(ClipLayer):
    """Replaces a bottleneck's 3 x 3 convolution."""

    image_kernel: str
    """The name of the parameter that is initialised from the replaced 3 x 3 kernel."""


class InflatedConvolution(ClipConvolution):
    """3 x 3 x 3 convolution, zero-padded in time (I3D: Carreira and Zisserman, CVPR 2017).

    Computed as one 2-D convolution that yields each frame's contribution to the outputs of the next frame, itself and
    the previous one. This takes about as long as Conv3d and avoids a bug in it: on a CPU, its bf16 gradient reads
    uninitialised memory if a map is two frames deep (torch 2.15, oneDNN).

    Args:
        image: The 3 x 3 convolution to inflate: its kernel goes into the middle time slice, the others are zero.
    """

    image_kernel = "conv3d.weight"

    def __init__(self, image: nn.Conv2d) -> None:
        super().__init__()
        self.stride = (image.stride[0], image.stride[1])
        self.conv3d = nn.Conv3d(image.in_channels, image.out_channels, 3, bias=False)  # for the name
        self.conv3d.weight.data = middle_slice(image.weight.data)

    def forward(self, x_NCHW: Tensor, frames: int) -> Tensor:
        kernel = self.conv3d.weight.permute(2, 0, 1, 3, 4).flatten(0, 1)
        shares_N3DHW = conv2d(x_NCHW, kernel, stride=self.stride, padding=1)
        to_next, to_own, to_previous = torch.unflatten(shares_N3DHW, 0, (-1, frames)).chunk(3, dim=2)
        y_BTDHW = to_own.clone()
        y_BTDHW[:, 1:] += to_next[:, :-1]
        y_BTDHW[:, :-1] += to_previous[:, 1:]
        return y_BTDHW.flatten(0, 1)


class ClipBottleneck(ClipLayer):
    """torchvision's bottleneck block around another middle convolution, with the same names."""

    def __init__(self, block: Bottleneck, convolution: ClipConvolution) -> None:
        super().__init__()
        self.conv1, self.bn1 = block.conv1, block.bn1
        self.conv2, self.bn2 = convolution, block.bn2
        self.conv3, self.bn3 = block.conv3, block.bn3
        self.relu = block.relu
        self.downsample = block.downsample

    def forward(self, x_NCHW: Tensor, frames: int) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x_NCHW)))
        y = self.relu(self.bn2(self.conv2(y, frames)))
        y = self.bn3(self.conv3(y))
        y += x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        output: Tensor = self.relu(y)
        return output


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution over maps stored by position: (..., P, C) -> (..., P, D)."""

    def __init__(self, channels_in: int, channels_out: int, *, bias: bool = False) -> None:
        super().__init__(channels_in, channels_out, 1, bias=bias)

    def forward(self, x_PC: Tensor) -> Tensor:
        return linear(x_PC, self.weight.flatten(1), self.bias)


def by_position(x_NCHW: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, P, C), a view of channels-last memory."""
    return x_NCHW.permute(0, 2, 3, 1).flatten(1, 2)


def as_map(x_NPC: Tensor, height: int) -> Tensor:
    """(N, P, C) -> (N, C, H, W), a channels-last view of contiguous memory."""
    return torch.unflatten(x_NPC, 1, (height, -1)).permute(0, 3, 1, 2)


def middle_slice(kernel_DCHW: Tensor) -> Tensor:
    """A 2-D kernel as the middle of three time slices, (D, C, 3, H, W); the outer ones are zero."""
    inflated = kernel_DCHW.new_zeros(*kernel_DCHW.shape[:2], 3, *kernel_DCHW.shape[2:])
    inflated[:, :, 1] = kernel_DCHW
    return inflated
