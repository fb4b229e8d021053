"""timm's transformer blocks with the attention left open.

Shape letters: N images or frames, K tokens, D channels; H heads of E; B clips of T frames.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from timm.layers.attention import Attention
from timm.models.eva import EvaAttention, EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import linear

from video_backbones.choices import BackboneError
from video_backbones.csci.attention import Attend, joint
from video_backbones.csci.rotary import RotaryTable


class TokenBlock(nn.Module, ABC):
    """A pre-norm block: x + attention(norm1(x)), then x + mlp(norm2(x)).

    It takes over the parts of timm's block and so its names. A block of the video network also has
    `temporal_prompt_embeddings` (1, T, D).
    """

    norm1: nn.LayerNorm
    attn: EvaAttention | Attention
    drop_path1: nn.Module
    norm2: nn.LayerNorm
    mlp: nn.Module
    drop_path2: nn.Module

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, part in block.named_children():
            self.add_module(name, part)

    @abstractmethod
    def _projected(self, x_NKD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (N, H, K, E)."""

    @abstractmethod
    def _scaled(self, y_NKD: Tensor, part: int) -> Tensor:
        """Layer scale, if the network has one: of the attention (part 1) or of the mlp (part 2)."""

    def add_prompts(self, frames: int) -> None:
        """Add a prompt for each frame, initialised as released."""
        size = self.norm1.normalized_shape[0]
        bound = math.sqrt(6 / (3 * 256 + size))
        self.temporal_prompt_embeddings = nn.Parameter(torch.empty(1, frames, size).uniform_(-bound, bound))

    def forward(self, x_NKD: Tensor, rotary: RotaryTable | None, attend: Attend, clip_frames: int = 0) -> Tensor:
        """Tokens [first, patches, class] or [patches, class] -> the same.

        Args:
            x_NKD: With `clip_frames`, the [patches, class] of the frames of N / T clips.
            rotary: Positions of the patches.
            attend: Who sees whom.
            clip_frames: T: each frame also sees a message from its clip, in the first place; 0: none.
        """
        y_NKD = self.norm1(x_NKD)
        if clip_frames:
            y_NKD = torch.cat((self.norm1(self._message(x_NKD, clip_frames)), y_NKD), dim=1)
        y_NKD = self._attention(y_NKD, rotary, attend)[:, -x_NKD.shape[1] :]
        x_NKD = x_NKD + self.drop_path1(self._scaled(y_NKD, 1))
        mixed_NKD: Tensor = x_NKD + self.drop_path2(self._scaled(self.mlp(self.norm2(x_NKD)), 2))
        return mixed_NKD

    def _message(self, x_NKD: Tensor, clip_frames: int) -> Tensor:
        """(N, 1, D): each frame's prompt plus its mean token, after attention over the prompts of the clip."""
        mean_BTD = torch.unflatten(x_NKD.mean(dim=1), 0, (-1, clip_frames))
        prompt_BTD = self.temporal_prompt_embeddings + mean_BTD
        return self._attention(self.norm1(prompt_BTD), None, joint).flatten(0, 1).unsqueeze(1)

    def _attention(self, y_NKD: Tensor, rotary: RotaryTable | None, attend: Attend) -> Tensor:
        query, key, value = self._projected(y_NKD)
        query, key = self.attn.q_norm(query), self.attn.k_norm(key)
        if rotary is not None:
            query, key = rotary(query), rotary(key)
        seen_NKD = attend(query, key, value).transpose(1, 2).flatten(2)
        projected_NKD: Tensor = self.attn.proj_drop(self.attn.proj(self.attn.norm(seen_NKD)))
        return projected_NKD

    def _by_head(self, x_NKD: Tensor) -> Tensor:
        """(N, K, H * E) -> (N, H, K, E)."""
        return torch.unflatten(x_NKD, 2, (self.attn.num_heads, -1)).transpose(1, 2)


class EvaTokenBlock(TokenBlock):
    """EVA-02's: no bias of the keys, projections apart or together, layer scale as parameters."""

    attn: EvaAttention
    gamma_1: Tensor | None
    gamma_2: Tensor | None

    def __init__(self, block: EvaBlock) -> None:
        super().__init__(block)
        self.gamma_1, self.gamma_2 = block.gamma_1, block.gamma_2

    def _projected(self, x_NKD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attn = self.attn
        if attn.qkv is None:
            return (
                self._by_head(attn.q_proj(x_NKD)),
                self._by_head(attn.k_proj(x_NKD)),
                self._by_head(attn.v_proj(x_NKD)),
            )
        of_query, of_value = attn.q_bias, attn.v_bias
        bias = None if of_query is None else torch.cat((of_query, torch.zeros_like(of_query), of_value))
        query, key, value = linear(x_NKD, attn.qkv.weight, bias).chunk(3, dim=2)
        return self._by_head(query), self._by_head(key), self._by_head(value)

    def _scaled(self, y_NKD: Tensor, part: int) -> Tensor:
        gamma_D = self.gamma_1 if part == 1 else self.gamma_2
        return y_NKD if gamma_D is None else gamma_D * y_NKD


class VitTokenBlock(TokenBlock):
    """ViT's: projections together, layer scale as a module."""

    attn: Attention
    ls1: nn.Module
    ls2: nn.Module

    def _projected(self, x_NKD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.attn.qkv(x_NKD).chunk(3, dim=2)
        return self._by_head(query), self._by_head(key), self._by_head(value)

    def _scaled(self, y_NKD: Tensor, part: int) -> Tensor:
        scaled: Tensor = (self.ls1 if part == 1 else self.ls2)(y_NKD)
        return scaled


def open_block(block: nn.Module) -> TokenBlock:
    """timm's block with its attention left open.

    Raises:
        BackboneError: It is none of the two that CSCI knows.
    """
    attn = getattr(block, "attn", None)
    if type(block) is EvaBlock and type(attn) is EvaAttention and attn.gate is None:
        return EvaTokenBlock(block)
    if type(block) is Block and type(attn) is Attention and attn.gate is None:
        return VitTokenBlock(block)
    raise BackboneError(f"its blocks ({type(block).__name__}) have another attention than EVA-02's and ViT's")
