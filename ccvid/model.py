"""The trained model and its heads.

Shape letters: B clips, T frames, C colour channels, H and W pixels; D features; P persons; N clothes classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, one_hot

from ccvid.batch_parts import in_parts
from data_tools.transforms import normalise
from video_backbones.backbone import VideoBackbone


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
    """Cosines between a feature and one direction per class, without bias: (B, D) -> (B, C)."""

    def __init__(self, feature_size: int, class_count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normalize(torch.empty(class_count, feature_size).uniform_(-1, 1)))

    def forward(self, feature_BD: Tensor) -> Tensor:
        return linear(normalize(feature_BD), normalize(self.weight))

    def held_cosine(self, feature_BD: Tensor) -> Tensor:
        """The same cosines with the weight held fixed: only the feature gets a gradient."""
        return linear(normalize(feature_BD), normalize(self.weight.detach()))


class ClothesMemory(nn.Module):
    """The mean feature of each clothes class, in place of a learned classifier.

    Until every class has been seen, a batch's mean of a class replaces the old one; from the next batch on, the two
    are averaged. A row of zeros is a class not seen yet. The released memory bank differs in one point: instead of the
    average of a batch's samples of a class, as in the paper, it takes the last one (before the bank is full) or each
    in turn (afterwards).

    Args:
        momentum: Share of the old mean that is kept, in [0, 1).
    """

    weight: Tensor

    def __init__(self, feature_size: int, class_count: int, *, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("weight", torch.zeros(class_count, feature_size))

    @property
    def known(self) -> Tensor:
        """(N,) bool: classes seen so far."""
        return self.weight.any(dim=1)

    @torch.no_grad()
    def update(self, feature_BD: Tensor, clothes_B: Tensor) -> None:
        """Update the means with the batch of all ranks together: (B, D) features, (B,) int64 clothes classes.

        Sums are matrix products, without atomic additions, so that the memory is bit-identical on all ranks.
        """
        member_BN = one_hot(clothes_B, len(self.weight)).to(self.weight.dtype)
        count_N1 = member_BN.sum(dim=0)[:, None]
        mean_ND = member_BN.T @ feature_BD.to(self.weight.dtype) / count_N1.clamp(min=1)
        kept = self.momentum * self.known.all().to(self.weight.dtype)
        self.weight.copy_(torch.where(count_N1 > 0, kept * self.weight + (1 - kept) * mean_ND, self.weight))

    def held_cosine(self, feature_BD: Tensor) -> Tensor:
        """(B, D) -> (B, N) cosines of features with the means, which are held fixed; 0 for a class not seen yet."""
        return linear(normalize(feature_BD), normalize(self.weight))


class ReIdModel(nn.Module):
    """Backbone and identity classifier: trained by one optimizer, wrapped in one DDP module.

    Args:
        backbone: Computes the feature.
        identity_classifier: Computes logits or cosines from the feature.
        autocast_dtype: `torch.bfloat16` runs the backbone under autocast, None in its own precision. The neck
            and the classifier are at least float32 in either case.
        parts: How many parts of a training batch are computed one after another, see `ccvid.batch_parts`.
    """

    def __init__(
        self,
        backbone: VideoBackbone,
        identity_classifier: nn.Module,
        *,
        autocast_dtype: torch.dtype | None = None,
        parts: int = 1,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.identity_classifier = identity_classifier
        self.autocast_dtype = autocast_dtype
        self.parts = parts

    def embed(self, frames_BTCHW: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> feature (B, D): all that evaluation needs."""
        with self.autocast():
            feature_BD: Tensor = self.backbone(frames_BTCHW)
        return feature_BD

    def autocast(self) -> torch.autocast:
        """What the backbone runs under."""
        return torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def embed_frames(self, frames_BTCHW: Tensor) -> Tensor:
        """uint8 RGB (B, T, 3, H, W) -> feature (B, D), in evaluation mode."""
        assert not self.training
        return self.embed(normalise(frames_BTCHW))

    @property
    def feature_size(self) -> int:
        return self.backbone.feature_size

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, frames_BTCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 3, H, W) -> feature (B, D), identity logits or cosines (B, P)."""
        with self.autocast():
            pooled_BD = in_parts(self.backbone, self.backbone.pooled, frames_BTCHW, self.parts)
        feature_BD = self.backbone.necked(pooled_BD)
        return feature_BD, self.identity_classifier(feature_BD)
