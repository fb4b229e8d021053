"""The model that is trained and its heads.

Shape letters: B clips, T frames, C colour channels, H and W pixels; D features; P persons; N clothes classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from video_backbones import VideoBackbone


class IdentityClassifier(nn.Module):
    """Linear logits over the training persons: (B, D) -> (B, P)."""

    def __init__(self, feature_size: int, person_count: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(feature_size, person_count)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, feature_BD: Tensor) -> Tensor:
        logits_BP: Tensor = self.classifier(feature_BD)
        return logits_BP


class CosineClassifier(nn.Module):
    """Cosines of a feature with one direction for each clothes class, without bias: (B, D) -> (B, N)."""

    def __init__(self, feature_size: int, class_count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normalize(torch.empty(class_count, feature_size).uniform_(-1, 1)))

    def forward(self, feature_BD: Tensor) -> Tensor:
        return linear(normalize(feature_BD), normalize(self.weight))

    def held_cosine(self, feature_BD: Tensor) -> Tensor:
        """The same cosines, for a loss that moves only the feature: no gradient of the weight is computed."""
        return linear(normalize(feature_BD), normalize(self.weight.detach()))


class ReIdModel(nn.Module):
    """Backbone and identity classifier: what one optimizer moves, and one DDP wrapper covers.

    Args:
        backbone: Gives the feature.
        identity_classifier: Gives logits from it.
        autocast_dtype: `torch.bfloat16` runs the backbone under autocast, None in its own precision. The neck
            and the classifier are at least float32 in either case.
    """

    def __init__(
        self,
        backbone: VideoBackbone,
        identity_classifier: nn.Module,
        *,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.identity_classifier = identity_classifier
        self.autocast_dtype = autocast_dtype

    def embed(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> feature (B, D): all that evaluation needs."""
        device, dtype = frames_BTCHW.device.type, self.autocast_dtype
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            feature_BD: Tensor = self.backbone(frames_BTCHW)
        return feature_BD

    def forward(self, frames_BTCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 3, H, W) -> feature (B, D), identity logits (B, P)."""
        feature_BD = self.embed(frames_BTCHW)
        return feature_BD, self.identity_classifier(feature_BD)
