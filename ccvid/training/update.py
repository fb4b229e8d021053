"""One training step of CAL: two updates a batch (Gu et al., CVPR 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ccvid.losses.clothes_adversarial import clothes_adversarial_loss
from ccvid.losses.cosface import cosface_loss
from ccvid.losses.identity import identity_loss
from ccvid.model import CosineClassifier


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """What one batch gave, before its updates: scalars on the device, detached, never synchronised here."""

    identity_loss: Tensor
    identity_accuracy: Tensor
    """Share of the batch in [0, 1] whose largest logit is its person."""
    clothes_loss: Tensor | None
    """None without a clothes head."""
    adversarial_loss: Tensor | None
    """None where it took no part."""


class ClothesHead:
    """The clothes classifier with its own optimizer.

    Args:
        classifier: A `CosineClassifier`, bare or in DistributedDataParallel.
        optimizer: Of its weight alone.
        owner_N: (N,) int64, the person class to whom each clothes class belongs, on the classifier's device.
        scale: s of both losses, above 0.
        epsilon: In [0, 1], see `clothes_adversarial_loss`.
    """

    def __init__(
        self,
        classifier: CosineClassifier | DistributedDataParallel,
        optimizer: Optimizer,
        owner_N: Tensor,
        *,
        scale: float = 16.0,
        epsilon: float = 0.1,
    ) -> None:
        self.classifier = classifier
        self.bare: CosineClassifier = (
            classifier.module if isinstance(classifier, DistributedDataParallel) else classifier
        )
        self.optimizer = optimizer
        self.owner_N = owner_N
        self.scale = scale
        self.epsilon = epsilon

    def update(self, feature_BD: Tensor, clothes_B: Tensor) -> Tensor:
        """Learn the clothes from features that are held fixed; the loss before the step."""
        loss = cosface_loss(self.classifier(feature_BD.detach()), clothes_B, scale=self.scale)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def loss(self, feature_BD: Tensor, clothes_B: Tensor) -> Tensor:
        """The loss alone."""
        return cosface_loss(self.bare(feature_BD), clothes_B, scale=self.scale)

    def adversarial_loss(self, feature_BD: Tensor, person_B: Tensor, clothes_B: Tensor) -> Tensor:
        """L_CA of the features; the classifier is held fixed, its DDP wrapper passed by."""
        same_person_BN = person_B[:, None] == self.owner_N
        cosine_BN = self.bare.held_cosine(feature_BD)
        return clothes_adversarial_loss(cosine_BN, clothes_B, same_person_BN, epsilon=self.epsilon, scale=self.scale)


class CalUpdate:
    """Updates the clothes classifier, then backbone and identity classifier.

    Args:
        model: A `ReIdModel`, bare, compiled or in DistributedDataParallel.
        optimizer: Of all its parameters.
        clothes: None trains the baseline, L_id alone.
        adversarial_weight: w in L_id + w * L_CA; CAL takes 1.
        label_smoothing: Of L_id, in [0, 1].
        clip_norm: The largest norm of the model's gradient; None does not clip.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        clothes: ClothesHead | None = None,
        *,
        adversarial_weight: float = 1.0,
        label_smoothing: float = 0.0,
        clip_norm: float | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.clothes = clothes
        self.adversarial_weight = adversarial_weight
        self.label_smoothing = label_smoothing
        self.clip_norm = clip_norm

    def __call__(
        self,
        frames_BTCHW: Tensor,
        person_B: Tensor,
        clothes_B: Tensor,
        *,
        train_clothes: bool,
        adversarial: bool,
    ) -> UpdateResult:
        """One batch.

        Args:
            frames_BTCHW: (B, T, 3, H, W) normalised frames on the model's device.
            person_B: (B,) int64 person classes.
            clothes_B: (B,) int64 clothes classes, each its person's; not read without a clothes head.
            train_clothes: Step the clothes classifier; before its start its loss is only computed.
            adversarial: Add L_CA.
        """
        feature_BD, id_logits_BP = self.model(frames_BTCHW)
        clothes_loss = adversarial_loss = None
        loss = id_loss = identity_loss(id_logits_BP, person_B, label_smoothing=self.label_smoothing)
        if self.clothes is not None:
            step = self.clothes.update if train_clothes else self.clothes.loss
            clothes_loss = step(feature_BD, clothes_B)
            if adversarial:
                adversarial_loss = self.clothes.adversarial_loss(feature_BD, person_B, clothes_B)
                loss = id_loss + self.adversarial_weight * adversarial_loss

        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        return UpdateResult(
            identity_loss=id_loss.detach(),
            identity_accuracy=(id_logits_BP.argmax(dim=1) == person_B).float().mean(),
            clothes_loss=clothes_loss,
            adversarial_loss=None if adversarial_loss is None else adversarial_loss.detach(),
        )
