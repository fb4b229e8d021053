"""torchvision's video networks up to their last map, with torchvision's names in the state dict.

On a CPU they all compute in float32, even under autocast: the bf16 gradient of a Conv3d on a map two frames deep reads
uninitialised memory (torch 2.15, oneDNN), and training ends in NaN.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool3d
from torchvision.models import video
from torchvision.models.video import MViT, VideoResNet
from torchvision.models.video.mvit import MSBlockConfig

from video_backbones.backbone import VideoBackbone
from video_backbones.choices import BackboneChoices


class TorchvisionVideo(VideoBackbone):
    """A network made of torchvision's layers."""

    recomputes = True

    def feature_maps(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T', D, H', W'); T and T' depend on the network."""
        x_BCTHW = frames_BTCHW.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", enabled=False):
            return self._maps(x_BCTHW).transpose(1, 2)

    @abstractmethod
    def _maps(self, x_BCTHW: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, D, T', H', W')."""


class ResNet3D18(TorchvisionVideo):
    """R3D-18, MC3-18 or R(2+1)D-18 (Tran et al., CVPR 2018).

    R3D and R(2+1)D halve the frames in stages 2, 3 and 4, rounding up; MC3 keeps them all. Any T >= 1 works. The last
    stride is the spatial stride of stage 4.
    """

    def __init__(self, network: VideoResNet, choices: BackboneChoices) -> None:
        super().__init__(512, choices.spatial_pool, choices.temporal_pool)
        self.stem = network.stem
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        first = self.layer4[0]
        spatial = first.conv1[0]
        for convolution in (spatial if isinstance(spatial, nn.Conv3d) else spatial[0], first.downsample[0]):
            convolution.stride = (convolution.stride[0], choices.last_stride, choices.last_stride)
        self.to(memory_format=torch.channels_last_3d)

    def _maps(self, x_BCTHW: Tensor) -> Tensor:
        maps: Tensor = self.stem(x_BCTHW)
        for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
            maps = self.run_block(block, maps)
        return maps


def r3d_18(choices: BackboneChoices) -> ResNet3D18:
    """3 x 3 x 3 convolutions throughout."""
    return ResNet3D18(video.r3d_18(weights=None), choices)


def mc3_18(choices: BackboneChoices) -> ResNet3D18:
    """3 x 3 x 3 convolutions in the first stage, 1 x 3 x 3 after it."""
    return ResNet3D18(video.mc3_18(weights=None), choices)


def r2plus1d_18(choices: BackboneChoices) -> ResNet3D18:
    """Convolutions over space, then over time."""
    return ResNet3D18(video.r2plus1d_18(weights=None), choices)


class S3D(TorchvisionVideo):
    """S3D (Xie et al., ECCV 2018): any T >= 1, T' = ceil(T / 4) halved, at least 1; maps of H / 32 or so.

    torchvision's version needs at least five frames and 32 pixels. The last stride is ignored.
    """

    def __init__(self, choices: BackboneChoices) -> None:
        super().__init__(1024, choices.spatial_pool, choices.temporal_pool)
        self.features = video.s3d(weights=None).features
        assert isinstance(self.features[13], nn.MaxPool3d)
        self.features[13] = _HalvingPool()
        for module in self.features.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = 0.1  # with the published 0.001, running statistics lag thousands of batches behind
        self.to(memory_format=torch.channels_last_3d)

    def _maps(self, x_BCTHW: Tensor) -> Tensor:
        for block in self.features:
            x_BCTHW = self.run_block(block, x_BCTHW)
        return x_BCTHW


class _HalvingPool(nn.Module):
    """Max pool of 2 x 2 x 2 with stride 2 that keeps an axis of length 1 instead of failing."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return max_pool3d(x_BCTHW, [min(2, size) for size in x_BCTHW.shape[2:]])


class Swin3D(TorchvisionVideo):
    """Video Swin-T (Liu et al., CVPR 2022): any T >= 1, T' = T / 2 rounded up; maps of H / 32. Ignores last stride.

    Its stochastic depth, up to 0.1, draws from torch's generator.
    """

    def __init__(self, choices: BackboneChoices) -> None:
        super().__init__(768, choices.spatial_pool, choices.temporal_pool)
        network = video.swin3d_t(weights=None)
        self.patch_embed, self.features, self.norm = network.patch_embed, network.features, network.norm

    def _maps(self, x_BCTHW: Tensor) -> Tensor:
        maps_BTHWC: Tensor = self.patch_embed(x_BCTHW)
        for stage in self.features:
            for block in stage if isinstance(stage, nn.Sequential) else (stage,):
                maps_BTHWC = self.run_block(block, maps_BTHWC)
        maps_BTHWC = self.norm(maps_BTHWC)
        return maps_BTHWC.permute(0, 4, 1, 2, 3)


class MViTv2(TorchvisionVideo):
    """MViTv2-S (Li et al., CVPR 2022): any T >= 1, T' = T / 2 rounded up; maps of H / 32. Ignores last stride.

    Its relative position tables have the length needed for clips of `clip_size`, rounded up to multiples of 2 frames
    and 32 pixels. Published tables of another length are interpolated linearly when loaded; for clips of another size,
    torchvision interpolates them in every forward pass, so any T >= 1 works. Stochastic depth up to 0.2.
    """

    def __init__(self, choices: BackboneChoices) -> None:
        super().__init__(768, choices.spatial_pool, choices.temporal_pool)
        frames, height, width = (
            step * -(-size // step) for size, step in zip(choices.clip_size, (2, 32, 32), strict=True)
        )
        network = MViT(
            (height, width),
            frames,
            _mvit_v2_s_blocks(),
            residual_pool=True,
            residual_with_cls_embed=False,
            rel_pos_embed=True,
            proj_after_attn=True,
            stochastic_depth_prob=0.2,
        )
        self.conv_proj, self.pos_encoding = network.conv_proj, network.pos_encoding
        self.blocks, self.norm = network.blocks, network.norm

    def _maps(self, x_BCTHW: Tensor) -> Tensor:
        patches_BCTHW = self.conv_proj(x_BCTHW)
        size_THW = tuple(patches_BCTHW.shape[2:])
        x_BPC = self.pos_encoding(patches_BCTHW.flatten(2).transpose(1, 2))
        for block in self.blocks:
            x_BPC, size_THW = self.run_block(block, x_BPC, size_THW)
        maps_BTHWC: Tensor = torch.unflatten(self.norm(x_BPC[:, 1:]), 1, size_THW)  # without the class token
        return maps_BTHWC.permute(0, 4, 1, 2, 3)

    def from_file(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Like `from_published`, because the file may be torchvision's, downloaded by hand."""
        return self.from_published(state)

    def from_published(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Interpolate relative position tables, (2 n - 1, channels) along one axis, linearly to this size."""
        own = self.state_dict()
        return {
            name: _stretched(value, len(own[name])) if ".rel_pos_" in name and name in own else value
            for name, value in state.items()
        }


def _mvit_v2_s_blocks() -> list[MSBlockConfig]:
    """torchvision's 16 blocks; its own builder accepts only square frames of one size."""
    channels = [96, 96, 192, 192, *[384] * 11, 768, 768]
    heads = [1, 2, 2, *[4] * 11, 8, 8]
    key_strides = [8, 4, 4, *[2] * 11, 1, 1]
    return [
        MSBlockConfig(
            num_heads=heads[block],
            input_channels=channels[block],
            output_channels=channels[block + 1],
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, 2, 2] if block in (1, 3, 14) else [1, 1, 1],
            stride_kv=[1, key_strides[block], key_strides[block]],
        )
        for block in range(16)
    ]


def _stretched(table_NC: Tensor, length: int) -> Tensor:
    if len(table_NC) == length:
        return table_NC
    return interpolate(table_NC.T[None], size=length, mode="linear", align_corners=False)[0].T.contiguous()
