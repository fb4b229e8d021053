"""torchvision's video networks up to their last map, with torchvision's names in the state dict.

On a CPU all of them compute in float32 even under autocast: there the bf16 gradient of a Conv3d on a map two frames
deep reads memory that nobody has written (torch 2.15, oneDNN), and training ends in NaN.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models.video import MViT, VideoResNet, s3d, swin3d_t
from torchvision.models.video.mvit import MSBlockConfig

from video_backbones.backbone import BackboneChoices, BackboneError, VideoBackbone


class TorchvisionVideo(VideoBackbone):
    """A network whose layers are torchvision's own."""

    def feature_maps(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T', D, H', W'); each network says how many frames it takes and leaves."""
        x_BCTHW = frames_BTCHW.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", enabled=False):
            return self._maps(x_BCTHW).transpose(1, 2)

    @abstractmethod
    def _maps(self, x_BCTHW: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, D, T', H', W')."""


class ResNet3D18(TorchvisionVideo):
    """R3D-18, MC3-18 or R(2+1)D-18 (Tran et al., CVPR 2018).

    R3D and R(2+1)D halve the frames in stages 2, 3 and 4, rounded up; MC3 keeps them all. Any T >= 1 works. The last
    stride is stage 4's in space alone.
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
        maps: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x_BCTHW)))))
        return maps


class S3D(TorchvisionVideo):
    """S3D (Xie et al., ECCV 2018): T >= 5 frames, T' = T / 8 or so; maps of H / 32. The last stride plays no part."""

    frames_taken = "5 or more"

    def __init__(self, choices: BackboneChoices) -> None:
        super().__init__(1024, choices.spatial_pool, choices.temporal_pool)
        frames, height, width = choices.clip_size
        if frames < 5 or min(height, width) < 32:
            raise BackboneError(
                f"s3d takes clips of 5 frames or more, 32x32 pixels or more; got {frames} frames of {height}x{width}"
            )
        self.features = s3d(weights=None).features
        self.to(memory_format=torch.channels_last_3d)

    def _maps(self, x_BCTHW: Tensor) -> Tensor:
        maps: Tensor = self.features(x_BCTHW)
        return maps


class Swin3D(TorchvisionVideo):
    """Video Swin-T (Liu et al., CVPR 2022): any T >= 1, T' = T / 2 rounded up; maps of H / 32. No last stride.

    Its stochastic depth, up to a tenth, draws from torch's generator.
    """

    def __init__(self, choices: BackboneChoices) -> None:
        super().__init__(768, choices.spatial_pool, choices.temporal_pool)
        network = swin3d_t(weights=None)
        self.patch_embed, self.features, self.norm = network.patch_embed, network.features, network.norm

    def _maps(self, x_BCTHW: Tensor) -> Tensor:
        maps_BTHWC: Tensor = self.norm(self.features(self.patch_embed(x_BCTHW)))
        return maps_BTHWC.permute(0, 4, 1, 2, 3)


class MViTv2(TorchvisionVideo):
    """MViTv2-S (Li et al., CVPR 2022): T' = T / 2; maps of H / 32. The last stride plays no part.

    Its tables of relative positions belong to one clip size, so that it takes only that: T even, H and W multiples
    of 32. Published tables of another size are interpolated. Stochastic depth as in Swin, up to a fifth.
    """

    def __init__(self, choices: BackboneChoices) -> None:
        super().__init__(768, choices.spatial_pool, choices.temporal_pool)
        self.clip_size = choices.clip_size
        frames, height, width = choices.clip_size
        self.frames_taken = str(frames)
        if frames % 2 or height % 32 or width % 32:
            raise BackboneError(
                "mvit_v2_s takes an even number of frames whose height and width are multiples of 32; "
                f"got {frames} frames of {height}x{width}"
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
        assert tuple(x_BCTHW.shape[2:]) == self.clip_size, f"got {x_BCTHW.shape = }, made for {self.clip_size = }"
        x_BPC = self.pos_encoding(self.conv_proj(x_BCTHW).flatten(2).transpose(1, 2))
        size_THW = (self.pos_encoding.temporal_size, *self.pos_encoding.spatial_size)
        for block in self.blocks:
            x_BPC, size_THW = block(x_BPC, size_THW)
        maps_BTHWC: Tensor = torch.unflatten(self.norm(x_BPC[:, 1:]), 1, size_THW)  # without the class token
        return maps_BTHWC.permute(0, 4, 1, 2, 3)

    def from_published(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Tables of relative positions, (2 n - 1, channels) along one axis, are stretched linearly to this size."""
        own = self.state_dict()
        return {
            name: _stretched(value, len(own[name])) if ".rel_pos_" in name and name in own else value
            for name, value in state.items()
        }


def _mvit_v2_s_blocks() -> list[MSBlockConfig]:
    """torchvision's 16 blocks, whose own builder takes only square frames of one size."""
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
    return interpolate(table_NC.T[None], size=length, mode="linear", align_corners=True)[0].T.contiguous()
