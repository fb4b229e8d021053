"""R3D-18: torchvision's ResNet of 3 x 3 x 3 convolutions."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.video import r3d_18

from video_backbones.backbone import BackboneChoices, VideoBackbone


class R3DResNet18(VideoBackbone):
    """R3D-18 (Tran et al., CVPR 2018) up to its last map, with torchvision's names in the state dict.

    Stages 2, 3 and 4 each halve the frames, rounded up, so any T >= 1 works. The last stride is
    stage 4's in space alone.

    On a CPU it computes in float32 even under autocast: there the bf16 gradient of a 3 x 3 x 3 kernel on a map two
    frames deep reads memory that nobody has written (torch 2.15, oneDNN), and training ends in NaN.
    """

    def __init__(self, choices: BackboneChoices) -> None:
        super().__init__(512, choices.spatial_pool, choices.temporal_pool)
        network = r3d_18(weights=None)
        self.stem = network.stem
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        first = self.layer4[0]
        for convolution in (first.conv1[0], first.downsample[0]):
            convolution.stride = (2, choices.last_stride, choices.last_stride)
        self.to(memory_format=torch.channels_last_3d)

    def feature_maps(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, ceil(T/8), 512, H', W'); H' = H/8 with last stride 1, else H/16."""
        x = frames_BTCHW.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", enabled=False):
            x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        maps_BTDHW: Tensor = x.transpose(1, 2)
        return maps_BTDHW
