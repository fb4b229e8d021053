"""One training step of CAL: two updates a batch (Gu et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from ccvid.losses.identity import identity_loss
from ccvid.training.clothes_heads import ClothesHead, ClothesMemoryHead
from ccvid.training.distributed import gather_batch
from ccvid.training.update_result import UpdateResult

BatchLoss = Callable[[Tensor, Tensor], Tensor]
"""The mean loss of a batch: (B, …) logits, cosines or features and (B,) int64 classes -> a scalar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTerm:
    """A loss between the features of all ranks' batches."""

    loss: BatchLoss
    """One of `ccvid.losses.pairs`."""
    weight: float = 1.0
    world_size: int = 1

    def __call__(self, feature_BD: Tensor, person_B: Tensor) -> Tensor:
        """The unweighted loss of the whole batch, the same on each rank."""
        return self.loss(gather_batch(feature_BD, self.world_size), gather_batch(person_B, self.world_size))


class CalUpdate:
    """Updates the clothes classifier, then backbone and identity classifier.

    Args:
        model: A `ReIdModel`, bare, compiled or in DistributedDataParallel.
        optimizer: Updates all of its parameters.
        clothes: None trains the baseline, without L_CA.
        identity: L_id, computed from the identity classifier's output.
        adversarial_weight: w in L_id + w * L_CA; CAL uses 1.
        pair: L_pair, added with its weight; None: not used.
        clip_norm: Largest norm of the model's gradient; None: no clipping.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        clothes: ClothesHead | ClothesMemoryHead | None = None,
        *,
        identity: BatchLoss = identity_loss,
        adversarial_weight: float = 1.0,
        pair: PairTerm | None = None,
        clip_norm: float | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.clothes = clothes
        self.identity = identity
        self.adversarial_weight = adversarial_weight
        self.pair = pair
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
        """Run the updates for one batch.

        Args:
            frames_BTCHW: (B, T, 3, H, W) normalised frames on the model's device.
            person_B: (B,) int64 person classes.
            clothes_B: (B,) int64 clothes classes, each of its person; not read without a clothes head.
            train_clothes: Update the clothes classifier; if False, its loss is only computed.
            adversarial: Add L_CA.
        """
        self.optimizer.zero_grad()  # before activations need the memory
        feature_BD, id_logits_BP = self.model(frames_BTCHW)
        loss = self.identity(id_logits_BP, person_B)
        losses = {"identity": loss}
        if self.clothes is not None:
            clothes_loss = self.clothes.learn(feature_BD, clothes_B, train=train_clothes)
            if clothes_loss is not None:
                losses["clothes"] = clothes_loss
            if adversarial:
                losses["adversarial"] = self.clothes.adversarial_loss(feature_BD, person_B, clothes_B)
                loss = loss + self.adversarial_weight * losses["adversarial"]
        if self.pair is not None:
            losses["pair"] = self.pair(feature_BD, person_B)
            loss = loss + self.pair.weight * losses["pair"]

        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        return UpdateResult(
            {name: value.detach() for name, value in losses.items()},
            identity_accuracy=(id_logits_BP.argmax(dim=1) == person_B).float().mean(),
        )
