"""CSCI's three networks. Their state has the released names, without the heads that only training needs.

An image way gives what the losses need of pictures; `forward` gives the clip's feature, which is all that a trained
network is used for.

Shape letters: B clips or images, T frames, N = B * T frames, P patches, K tokens, D features, C H W the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from timm.layers.mlp import SwiGLU
from timm.layers.norm import LayerNorm
from timm.layers.patch_embed import PatchEmbed
from timm.layers.weight_init import trunc_normal_
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from video_backbones.backbone import VideoBackbone
from video_backbones.choices import BackboneChoices, BackboneError
from video_backbones.csci.attention import ATTENTION, Attend, joint
from video_backbones.csci.blocks import TokenBlock, open_block
from video_backbones.csci.initial_weights import trunk_state
from video_backbones.csci.rotary import RotaryTable
from video_backbones.pooling import widened

_EPSILON = 1e-6


class ImageTokens(NamedTuple):
    """What an image way gives: two features, (B, D) each."""

    feature_BD: Tensor
    """Who: the class token."""
    colour_BD: Tensor
    """Which colours: the colour token."""


class CsciNetwork(VideoBackbone):
    """The common trunk: patches, blocks and final norm of one of timm's networks, taken over with their names.

    Frames have one size, that of the choices.

    Args:
        network: timm's Eva or VisionTransformer with a class token and a learned place for each token.
        choices: The attention of images, and the temporal pool.
        rotary: The network's rotary positions.

    Raises:
        BackboneError: A block of the network is not as expected.
    """

    heads = (*VideoBackbone.heads, "head_image.", "mlp.", "norm2.", "cloth_embed")
    recomputes = True
    patch_embed: PatchEmbed
    cls_token: nn.Parameter
    pos_embed: nn.Parameter
    """(1, K, D): the head tokens' places, then the patches'."""
    norm_pre: nn.Module
    blocks: nn.ModuleList
    """In order of depth."""
    norm: nn.Module

    def __init__(self, network: Eva | VisionTransformer, choices: BackboneChoices, rotary: RotaryTable | None) -> None:
        super().__init__(network.embed_dim, choices.spatial_pool, choices.temporal_pool, neck=False)
        assert network.cls_token is not None
        assert network.pos_embed is not None
        self.cls_token, self.pos_embed = network.cls_token, network.pos_embed
        self.patch_embed, self.norm_pre, self.norm = network.patch_embed, network.norm_pre, network.norm
        self.blocks = nn.ModuleList(open_block(block) for block in network.blocks)
        self.rotary = rotary
        self.attend = ATTENTION[choices.attention]

    def is_new(self, name: str) -> bool:
        """Also the tokens and prompts that only CSCI has."""
        own = ("extra_token1", "cls_token_img", "temporal_tokens")
        return super().is_new(name) or name in own or name.endswith(".temporal_prompt_embeddings")

    def from_published(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """As `from_file`."""
        return self.from_file(state)

    def from_file(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """timm's, open_clip's or EVA-CLIP's names converted, places and patch filter resized."""
        return trunk_state(
            state, grid=self.patch_embed.grid_size, patch=self.patch_embed.patch_size, places=self.pos_embed.shape[1]
        )

    def _patches(self, frames_NCHW: Tensor) -> Tensor:
        """(N, P, D), each with its place."""
        if tuple(frames_NCHW.shape[2:]) != tuple(self.patch_embed.img_size):
            found, expected = ("x".join(map(str, size)) for size in (frames_NCHW.shape[2:], self.patch_embed.img_size))
            raise BackboneError(f"the network was made for frames of {expected}, got {found}")
        patches_NPD: Tensor = self.patch_embed(frames_NCHW)
        return patches_NPD + self.pos_embed[:, -self.patch_embed.num_patches :]

    def _through(self, x_NKD: Tensor, attend: Attend, clip_frames: int = 0) -> Tensor:
        """All blocks and the final norm; in at least float32, also under autocast."""
        x_NKD = self.norm_pre(x_NKD)
        for block in self.blocks:
            x_NKD = self.run_block(block, x_NKD, self.rotary, attend, clip_frames)
        return widened(self.norm(x_NKD))

    def _image_tokens(self, frames_BCHW: Tensor, colour_11D: Tensor, class_11D: Tensor) -> ImageTokens:
        """The image way, given both head tokens with their places."""
        patches_BPD = self._patches(frames_BCHW)
        x_BKD = self._through(_tokens(patches_BPD, class_11D, colour_11D), self.attend)
        return ImageTokens(feature_BD=x_BKD[:, -1], colour_BD=x_BKD[:, 0])


class CsciPlain(CsciNetwork):
    """The baseline, and stage 1 of the video network: each frame's class token. Any T >= 1."""

    def feature_maps(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T, D, 1, 1)."""
        patches_NPD = self._patches(frames_BTCHW.flatten(0, 1))
        x_NKD = self._through(_tokens(patches_NPD, self.cls_token + self.pos_embed[:, :1]), joint)
        return _as_maps(torch.unflatten(x_NKD[:, -1], 0, frames_BTCHW.shape[:2]))


class CsciImage(CsciNetwork):
    """The colour image network: a class token and a colour token for each frame. Any T >= 1."""

    def __init__(self, network: Eva | VisionTransformer, choices: BackboneChoices, rotary: RotaryTable | None) -> None:
        super().__init__(network, choices, rotary)
        self.extra_token1 = _new_token(self.cls_token)
        self.pos_embed = nn.Parameter(torch.cat((self.pos_embed[:, :1], self.pos_embed), dim=1).detach())

    def feature_maps(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T, D, 1, 1)."""
        feature_ND = self.image_way(frames_BTCHW.flatten(0, 1)).feature_BD
        return _as_maps(torch.unflatten(feature_ND, 0, frames_BTCHW.shape[:2]))

    def image_way(self, frames_BCHW: Tensor) -> ImageTokens:
        """Normalised pictures (B, 3, H, W) -> both features."""
        colour_11D, class_11D = self.extra_token1 + self.pos_embed[:, :1], self.cls_token + self.pos_embed[:, 1:2]
        return self._image_tokens(frames_BCHW, colour_11D, class_11D)


class CsciVideo(CsciNetwork):
    """The video network: a way for clips of exactly T frames, and one for images, which only training needs.

    Both share the blocks; the image way has its own class token and the colour token.
    """

    def __init__(self, network: Eva | VisionTransformer, choices: BackboneChoices, rotary: RotaryTable | None) -> None:
        super().__init__(network, choices, rotary)
        frames, size = choices.clip_size[0], self.feature_size
        self.temporal_tokens = nn.Parameter(torch.zeros(1, frames, size))
        for block in self.blocks:
            assert isinstance(block, TokenBlock)
            block.add_prompts(frames)
        self.extra_token1, self.cls_token_img = _new_token(self.cls_token), _new_token(self.cls_token)
        self.extra_pos_in_temporal = nn.Parameter(self.pos_embed[:, :1].detach().clone())

    def from_file(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The colour token of a network without one starts with the place of the class token."""
        given = super().from_file(state)
        if "pos_embed" in given and given["pos_embed"].ndim == 3 and "extra_pos_in_temporal" not in given:
            return {**given, "extra_pos_in_temporal": given["pos_embed"][:, :1].clone()}
        return given

    def feature_maps(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T, D, 1, 1)."""
        return _as_maps(self.frame_features(frames_BTCHW))

    def frame_features(self, frames_BTCHW: Tensor) -> Tensor:
        """Normalised clips (B, T, 3, H, W) -> each frame's feature (B, T, D), of which the clip's is the mean.

        Raises:
            BackboneError: T is not that of the network.
        """
        expected, frames = self.temporal_tokens.shape[1], frames_BTCHW.shape[1]
        if frames != expected:
            raise BackboneError(f"the network was made for clips of {expected} frames, got {frames}")
        x_NKD = _tokens(self._patches(frames_BTCHW.flatten(0, 1)), self.cls_token + self.pos_embed[:, :1])
        x_BTKD = torch.unflatten(x_NKD, 0, (-1, frames)) + self.temporal_tokens.unsqueeze(2)
        return torch.unflatten(self._through(x_BTKD.flatten(0, 1), joint, frames)[:, -1], 0, (-1, frames))

    def image_way(self, frames_BCHW: Tensor) -> ImageTokens:
        """Normalised pictures (B, 3, H, W) -> both features."""
        colour_11D = self.extra_token1 + self.extra_pos_in_temporal
        return self._image_tokens(frames_BCHW, colour_11D, self.cls_token_img + self.pos_embed[:, :1])


class ColourHead(nn.Module):
    """The predicted colour histogram of an image, from its colour feature; for training alone.

    Args:
        feature_size: D.
        colour_size: E, the size of the colour target. The head has about 8/3 E² + 16/3 D E weights.
    """

    def __init__(self, feature_size: int, colour_size: int) -> None:
        super().__init__()
        self.norm2 = LayerNorm(feature_size, eps=_EPSILON)
        hidden = int(colour_size * 8 / 3)
        self.mlp = SwiGLU(feature_size, hidden, colour_size, norm_layer=LayerNorm)

    def forward(self, colour_BD: Tensor) -> Tensor:
        """(B, D) -> (B, E)."""
        output_BE: Tensor = self.mlp(self.norm2(colour_BD))
        return output_BE


def _tokens(patches_NPD: Tensor, class_11D: Tensor, *first: Tensor) -> Tensor:
    """[first, patches, class] of each image; the first may be missing."""
    count = patches_NPD.shape[0]
    parts = (*first, patches_NPD, class_11D)
    return torch.cat([part.expand(count, -1, -1) for part in parts], dim=1)


def _as_maps(feature_BTD: Tensor) -> Tensor:
    return feature_BTD[..., None, None]


def _new_token(like_11D: Tensor) -> nn.Parameter:
    token = nn.Parameter(torch.empty_like(like_11D))
    trunc_normal_(token, std=0.02)
    return token
