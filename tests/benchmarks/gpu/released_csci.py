"""CSCI's video network as its release computes it: softmax over N x N matrices, one attention for each head token.

Written anew from its description, on the weights of our network. Tokens are in the released order, head tokens first.

Shape letters: N pictures or frames, K tokens, P patches, D channels, H heads of E; B clips of T frames.
"""

from __future__ import annotations

import torch
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor, nn

from ccvid.training.csci_model import CsciModel, CsciOutput, Way
from video_backbones.csci.blocks import EvaTokenBlock
from video_backbones.csci.networks import CsciVideo


class ReleasedCsci(nn.Module):
    """Both ways of a `CsciModel` on a `CsciVideo` of EVA-02, all of its activations kept for the backward pass."""

    def __init__(self, whole: CsciModel) -> None:
        super().__init__()
        assert isinstance(whole.model.backbone, CsciVideo)
        assert whole.heads is not None
        assert whole.heads.head_image is not None
        self.whole, self.network, self.heads = whole, whole.model.backbone, whole.heads
        self.head_image = whole.heads.head_image
        self.blocks = [_eva(block) for block in self.network.blocks]

    def forward(self, frames: Tensor, way: Way) -> CsciOutput:
        """As `CsciModel`, of the ways `picture` and `clip`."""
        return self._picture(frames) if way == "picture" else self._clip(frames)

    def _picture(self, frames_NCHW: Tensor) -> CsciOutput:
        network = self.network
        with self.whole.model.autocast():
            colour_11D = network.extra_token1 + network.extra_pos_in_temporal
            x_NKD = self._tokens(frames_NCHW, colour_11D, network.cls_token_img + network.pos_embed[:, :1])
            for block in self.blocks:
                x_NKD = x_NKD + self._separate(block, block.norm1(x_NKD))
                x_NKD = x_NKD + block.mlp(block.norm2(x_NKD))
            x_NKD = network.norm(x_NKD)
        colour_ND, feature_ND = x_NKD[:, 0].float(), x_NKD[:, 1].float()
        return CsciOutput(
            feature_ND, self.head_image(feature_ND), colour_BD=colour_ND, colours_BE=self.heads.colour(colour_ND)
        )

    def _clip(self, frames_BTCHW: Tensor) -> CsciOutput:
        network, frames = self.network, frames_BTCHW.shape[1]
        with self.whole.model.autocast():
            x_NKD = self._tokens(frames_BTCHW.flatten(0, 1), network.cls_token + network.pos_embed[:, :1])
            x_BTKD = torch.unflatten(x_NKD, 0, (-1, frames)) + network.temporal_tokens[:, :, None]
            x_NKD = x_BTKD.flatten(0, 1)
            for block in self.blocks:
                prompt_BTD = block.temporal_prompt_embeddings + torch.unflatten(x_NKD.mean(dim=1), 0, (-1, frames))
                message_BTD = self._attention(block, block.norm1(prompt_BTD), rotated=False)
                with_message = torch.cat((message_BTD.flatten(0, 1)[:, None], x_NKD), dim=1)
                with_message = with_message + self._attention(block, block.norm1(with_message))
                x_NKD = with_message[:, 1:]
                x_NKD = x_NKD + block.mlp(block.norm2(x_NKD))
            frame_BTD = torch.unflatten(network.norm(x_NKD)[:, 0], 0, (-1, frames)).float()
        feature_BD = frame_BTD.mean(dim=1)
        return CsciOutput(feature_BD, self.whole.model.identity_classifier(feature_BD), frame_BTD=frame_BTD)

    def _tokens(self, frames_NCHW: Tensor, *heads_11D: Tensor) -> Tensor:
        """[head tokens, patches]."""
        patches_NPD = self.network.patch_embed(frames_NCHW)
        patches_NPD = patches_NPD + self.network.pos_embed[:, -patches_NPD.shape[1] :]
        heads = [head_11D.expand(len(patches_NPD), -1, -1) for head_11D in heads_11D]
        return self.network.norm_pre(torch.cat((*heads, patches_NPD), dim=1))  # type: ignore[no-any-return]

    def _projected(self, block: EvaTokenBlock, y_NKD: Tensor, *, rotated: bool) -> list[Tensor]:
        """Queries, keys and values, (N, H, K, E); those of patches turned by their places."""
        q, k, v = block._projected(y_NKD)
        if rotated:
            assert self.network.rotary is not None
            table_PF = self.network.rotary.table_NF[1:-1]
            heads = y_NKD.shape[1] - len(table_PF)
            q, k = (
                torch.cat((x[:, :, :heads], apply_rot_embed_cat(x[:, :, heads:], table_PF)), dim=2).type_as(v)
                for x in (q, k)
            )
        return [q, k, v]

    def _attention(self, block: EvaTokenBlock, y_NKD: Tensor, *, rotated: bool = True) -> Tensor:
        return self._joined(block, _softmax_attention(*self._projected(block, y_NKD, rotated=rotated)))

    def _separate(self, block: EvaTokenBlock, y_NKD: Tensor) -> Tensor:
        """One attention for each of the two head tokens with the patches; patches get the mean of both."""
        projected = self._projected(block, y_NKD, rotated=True)
        seen = [
            _softmax_attention(*(torch.cat((x[:, :, head : head + 1], x[:, :, 2:]), 2) for x in projected))
            for head in (0, 1)
        ]
        patches = torch.stack([each[:, :, 1:] for each in seen]).mean(dim=0)
        return self._joined(block, torch.cat((*(each[:, :, :1] for each in seen), patches), dim=2))

    def _joined(self, block: EvaTokenBlock, seen: Tensor) -> Tensor:
        attn = block.attn
        return attn.proj(attn.norm(seen.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]


def _eva(block: nn.Module) -> EvaTokenBlock:
    assert isinstance(block, EvaTokenBlock), f"expected EVA-02's, got {type(block).__name__}"
    return block


def _softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weight_NHKK = ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).softmax(dim=-1)
    seen: Tensor = weight_NHKK.type_as(value) @ value
    return seen
