"""What CSCI trains: the model that is scored, and the heads that only training needs.

Shape letters: B clips or pictures, T frames, C = 3 colours, H and W pixels; D features; P persons; E colour values.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ccvid.batch_parts import in_parts
from ccvid.losses.vectors import precise
from ccvid.model import IdentityClassifier, ReIdModel
from video_backbones.csci.networks import ColourHead, CsciImage, CsciVideo

Way = Literal["plain", "picture", "clip"]


class CsciOutput(NamedTuple):
    """What one way through the network gives."""

    feature_BD: Tensor
    logits_BP: Tensor
    frame_BTD: Tensor | None = None
    """The clip way's features of frames, of which the clip's is the mean."""
    colour_BD: Tensor | None = None
    """The picture way's colour feature, and its predicted colours."""
    colours_BE: Tensor | None = None


class CsciHeads(nn.Module):
    """The colour head, and the video network's own person classifier for pictures.

    Args:
        persons: P of the pictures' classifier; None: pictures share the model's.
    """

    def __init__(self, feature_size: int, colour_size: int, persons: int | None) -> None:
        super().__init__()
        self.colour = ColourHead(feature_size, colour_size)
        self.head_image = None if persons is None else new_classifier(feature_size, persons)


class CsciModel(nn.Module):
    """One of the three networks with its heads, to be wrapped in one DDP module.

    Args:
        model: Its backbone is a `CsciPlain`, `CsciImage` or `CsciVideo`.
        heads: None for a plain network.
    """

    def __init__(self, model: ReIdModel, heads: CsciHeads | None) -> None:
        super().__init__()
        self.model = model
        self.heads = heads

    def forward(self, frames: Tensor, way: Way) -> CsciOutput:
        """Normalised frames, (B, T, 3, H, W) for `plain` and `clip`, (B, 3, H, W) for `picture`; float32 heads."""
        return {"plain": self._plain, "picture": self._picture, "clip": self._clip}[way](frames)

    def _plain(self, frames_BTCHW: Tensor) -> CsciOutput:
        feature_BD, logits_BP = self.model(frames_BTCHW)
        return CsciOutput(feature_BD, logits_BP)

    def _clip(self, frames_BTCHW: Tensor) -> CsciOutput:
        backbone = self.model.backbone
        assert isinstance(backbone, CsciVideo)
        with self.model.autocast():
            frame_BTD = in_parts(backbone, backbone.frame_features, frames_BTCHW, self.model.parts)
        frame_BTD = precise(frame_BTD)
        feature_BD = backbone.temporal_pool(frame_BTD)
        return CsciOutput(feature_BD, self.model.identity_classifier(feature_BD), frame_BTD=frame_BTD)

    def _picture(self, frames_BCHW: Tensor) -> CsciOutput:
        backbone, heads = self.model.backbone, self.heads
        assert isinstance(backbone, CsciImage | CsciVideo)
        assert heads is not None
        with self.model.autocast():
            tokens = in_parts(backbone, backbone.image_way, frames_BCHW, self.model.parts)
        feature_BD, colour_BD = map(precise, tokens)
        classifier = self.model.identity_classifier if heads.head_image is None else heads.head_image
        return CsciOutput(feature_BD, classifier(feature_BD), colour_BD=colour_BD, colours_BE=heads.colour(colour_BD))


def new_classifier(feature_size: int, persons: int) -> IdentityClassifier:
    """A person classifier that starts as released: almost zero, so that all persons are as likely."""
    classifier = IdentityClassifier(feature_size, persons)
    with torch.no_grad():
        nn.init.trunc_normal_(classifier.classifier.weight, std=0.02).mul_(0.001)
    return classifier
