"""The clothes head of a CAL update: a learned classifier or a memory of class means."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ccvid.losses.clothes_adversarial import clothes_adversarial_loss
from ccvid.losses.cosface import cosface_loss
from ccvid.model import ClothesMemory, CosineClassifier
from ccvid.training.distributed import gather_batch


class ClothesHead:
    """The clothes classifier with its own optimizer.

    Args:
        classifier: A `CosineClassifier`, bare or in DistributedDataParallel.
        optimizer: Updates the classifier's weight only.
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

    def learn(self, feature_BD: Tensor, clothes_B: Tensor, *, train: bool) -> Tensor:
        """The classifier's loss; with ``train`` also an update of the classifier. The features are held fixed."""
        if not train:
            with torch.no_grad():
                return cosface_loss(self.bare(feature_BD), clothes_B, scale=self.scale)
        loss = cosface_loss(self.classifier(feature_BD.detach()), clothes_B, scale=self.scale)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def adversarial_loss(self, feature_BD: Tensor, person_B: Tensor, clothes_B: Tensor) -> Tensor:
        """L_CA of the features; the classifier is held fixed and its DDP wrapper bypassed."""
        same_person_BN = person_B[:, None] == self.owner_N
        cosine_BN = self.bare.held_cosine(feature_BD)
        return clothes_adversarial_loss(cosine_BN, clothes_B, same_person_BN, epsilon=self.epsilon, scale=self.scale)


class ClothesMemoryHead:
    """A memory of class means in place of the classifier: not trained, and filled from the first step on.

    Args:
        memory: Equal on all ranks, and kept equal.
        owner_N: (N,) int64, the person class to whom each clothes class belongs, on the memory's device.
        scale: s of L_CA, above 0.
        epsilon: In [0, 1], see `clothes_adversarial_loss`.
        world_size: Number of ranks whose batches update it.
    """

    def __init__(
        self,
        memory: ClothesMemory,
        owner_N: Tensor,
        *,
        scale: float = 16.0,
        epsilon: float = 0.1,
        world_size: int = 1,
    ) -> None:
        self.memory = memory
        self.owner_N = owner_N
        self.scale = scale
        self.epsilon = epsilon
        self.world_size = world_size

    def learn(self, feature_BD: Tensor, clothes_B: Tensor, *, train: bool) -> None:  # noqa: ARG002
        """Update the means with all ranks' features, even before L_CA starts, so that they exist when it does."""
        feature_BD = gather_batch(feature_BD.detach(), self.world_size)
        self.memory.update(feature_BD, gather_batch(clothes_B, self.world_size))

    def adversarial_loss(self, feature_BD: Tensor, person_B: Tensor, clothes_B: Tensor) -> Tensor:
        """L_CA of the features over the classes seen so far; the means are held fixed."""
        return clothes_adversarial_loss(
            self.memory.held_cosine(feature_BD),
            clothes_B,
            person_B[:, None] == self.owner_N,
            self.memory.known,
            epsilon=self.epsilon,
            scale=self.scale,
        )
