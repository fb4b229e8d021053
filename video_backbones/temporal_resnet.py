"""ResNet-50 whose frames interact in stages 2 and 3: I3D, AP3D and non-local blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from video_backbones.appearance_preserving import AppearancePreservingConvolution
from video_backbones.c2d import C2DResNet
from video_backbones.choices import BackboneChoices
from video_backbones.clip_blocks import ClipBottleneck, ClipConvolution, ClipLayer, InflatedConvolution, middle_slice
from video_backbones.non_local import NonLocalBlock

_STAGES = ("layer2", "layer3")
_BLOCKS = (3, 4, 6, 3)


class TemporalResNet50(C2DResNet):
    """A C2D ResNet-50 in which every other block of stages 2 and 3 looks beyond its frame.

    Blocks 0, 2 (and 4) get another middle convolution; blocks 1, 3 (and 5) are followed by a non-local block. Names in
    the state dict are those of the released networks: a non-local block counts as a block of its stage, so later
    numbers shift by one. Kernels that span one frame are 2-D; those that span three stay 5-D.

    Args:
        convolution: Makes the replacement of a 3 x 3 convolution from it; None keeps the convolution.
        non_local: Whether there are non-local blocks.
    """

    def __init__(
        self,
        choices: BackboneChoices,
        convolution: Callable[[nn.Conv2d], ClipConvolution] | None,
        *,
        non_local: bool = False,
    ) -> None:
        super().__init__(Bottleneck, _BLOCKS, choices)
        for name in _STAGES:
            blocks: list[nn.Module] = []
            for number, block in enumerate(self.get_submodule(name).children()):
                assert isinstance(block, Bottleneck)
                alters = convolution is not None and number % 2 == 0
                blocks.append(ClipBottleneck(block, convolution(block.conv2)) if convolution and alters else block)
                if non_local and number % 2 == 1:
                    blocks.append(NonLocalBlock(block.conv3.out_channels))
            self.set_submodule(name, nn.Sequential(*blocks))
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def feature_maps(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T, 2048, H', W'); H' = H/16 with last stride 1, else H/32, rounded up."""
        frames = frames_BTCHW.shape[1]
        x = self.stem(frames_BTCHW)
        for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
            x = self.run_block(block, x, frames) if isinstance(block, ClipLayer) else self.run_block(block, x)
        return torch.unflatten(x, 0, (-1, frames))

    def from_published(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """An image ResNet-50's weights under this network's names; layers that it lacks keep their values.

        A 3 x 3 kernel becomes the middle time slice of a 3 x 3 x 3 kernel.
        """
        own = self.state_dict()
        for image_name, value in state.items():
            name = self._place(image_name)
            inflates = name in own and own[name].ndim == 5
            own[name] = middle_slice(value) if inflates else value
        return own

    def _place(self, image_name: str) -> str:
        """This network's name for the image ResNet-50's `image_name`."""
        stage, number, *rest = image_name.split(".", 2)
        if stage not in _STAGES:
            return image_name
        places = [
            (place, block)
            for place, block in self.get_submodule(stage).named_children()
            if not isinstance(block, NonLocalBlock)
        ]
        place, block = places[int(number)]
        if isinstance(block, ClipBottleneck) and rest == ["conv2.weight"]:
            rest = [f"conv2.{block.conv2.image_kernel}"]
        return ".".join((stage, place, *rest))


def i3d_resnet50(choices: BackboneChoices) -> TemporalResNet50:
    """Inflated convolutions (Carreira & Zisserman, CVPR 2017)."""
    return TemporalResNet50(choices, InflatedConvolution)


def ap3d_resnet50(choices: BackboneChoices) -> TemporalResNet50:
    """Appearance-preserving convolutions (Gu et al., ECCV 2020)."""
    return TemporalResNet50(choices, AppearancePreservingConvolution)


def nl_resnet50(choices: BackboneChoices) -> TemporalResNet50:
    """Non-local blocks (Wang et al., CVPR 2018)."""
    return TemporalResNet50(choices, None, non_local=True)


def ap3d_nl_resnet50(choices: BackboneChoices) -> TemporalResNet50:
    """Appearance-preserving convolutions and non-local blocks."""
    return TemporalResNet50(choices, AppearancePreservingConvolution, non_local=True)
