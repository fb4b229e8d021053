"""C2D: a ResNet on each frame; frames interact only in the temporal pool."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from video_backbones.backbone import VideoBackbone
from video_backbones.choices import BackboneChoices


class C2DResNet(VideoBackbone):
    """ResNet (He et al., CVPR 2016) over B*T folded frames.

    The same results as 1 x k x k Conv3d, but faster: 2-D convolutions on channels-last memory. Names in the state dict
    are those of the released C2D (`conv1.weight` ... `layer4.2.bn3.running_var`, `bn.weight` ...), which are also
    torchvision's; the released 5-D kernels lose their time axis of length 1.

    Args:
        block: torchvision's residual block, with its stride in the 3 x 3 convolution.
        depths: blocks in each of the four stages.
        choices: `last_stride` 1 keeps the map of stage 4 as large as that of stage 3.
        width: channels after the stem, 64 in the paper.
    """

    recomputes = True

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        choices: BackboneChoices,
        *,
        width: int = 64,
    ) -> None:
        super().__init__(8 * width * block.expansion, choices.spatial_pool, choices.temporal_pool)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(block, width, width, depths[0], stride=1)
        self.layer2 = _stage(block, width * block.expansion, 2 * width, depths[1], stride=2)
        self.layer3 = _stage(block, 2 * width * block.expansion, 4 * width, depths[2], stride=2)
        self.layer4 = _stage(block, 4 * width * block.expansion, 8 * width, depths[3], stride=choices.last_stride)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def feature_maps(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T, D, H', W'); H' = H/16 with last stride 1, else H/32, rounded up."""
        x = self.stem(frames_BTCHW)
        for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
            x = self.run_block(block, x)
        return torch.unflatten(x, 0, frames_BTCHW.shape[:2])

    def stem(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B * T, width, H/4, W/4) on channels-last memory."""
        x_NCHW = frames_BTCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        maps_NCHW: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(x_NCHW))))
        return maps_NCHW


def c2d_resnet50(choices: BackboneChoices) -> C2DResNet:
    """CAL's network, D = 2048."""
    return C2DResNet(Bottleneck, (3, 4, 6, 3), choices)


def c2d_resnet18(choices: BackboneChoices) -> C2DResNet:
    """D = 512."""
    return C2DResNet(BasicBlock, (2, 2, 2, 2), choices)


def c2d_resnet18_slim(choices: BackboneChoices) -> C2DResNet:
    """Half the width, for CPUs: D = 256."""
    return C2DResNet(BasicBlock, (2, 2, 2, 2), choices, width=32)


def _stage(
    block: type[BasicBlock] | type[Bottleneck], channels_in: int, planes: int, depth: int, *, stride: int
) -> nn.Sequential:
    """`depth` blocks; the first has the stride, and projects its shortcut if the shape changes."""
    channels_out = planes * block.expansion
    shortcut = None
    if stride != 1 or channels_in != channels_out:
        shortcut = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
        )
    first = block(channels_in, planes, stride, shortcut)
    return nn.Sequential(first, *(block(channels_out, planes) for _ in range(depth - 1)))
