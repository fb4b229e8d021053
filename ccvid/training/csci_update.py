"""One training step of CSCI (Pathak and Rawat, ICCV 2025): of single pictures, of clips, and of its plain network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ccvid.csci_options import CsciOptions
from ccvid.losses.colour import colour_loss
from ccvid.losses.disentangling import disentangling_loss
from ccvid.losses.identity import identity_loss
from ccvid.losses.motion import motion_loss
from ccvid.losses.soft_triplet import soft_triplet_loss
from ccvid.training.csci_model import CsciOutput, Way
from ccvid.training.distributed import gather_batch
from ccvid.training.update_result import UpdateResult


class CsciUpdate:
    """Updates network and heads together. Clothes labels are never read.

    Args:
        model: A `CsciModel`, bare, compiled or in DistributedDataParallel.
        optimizer: Updates all of its parameters. Those that a step does not use are left alone.
        options: The losses' weights, and whose triplets are mined.
        world_size: Number of ranks.
        clip_norm: Largest norm of the gradient; None: no clipping.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        options: CsciOptions,
        *,
        world_size: int = 1,
        clip_norm: float | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.weights = {
            "identity": 1.0,
            "triplet": options.triplet_weight,
            "colour": options.colour_weight,
            "disentangling": options.disentangling_weight,
            "motion": options.motion_weight,
        }
        self.mined_ranks = world_size if options.triplets_of_all_workers else 1
        self.clip_norm = clip_norm

    def plain(self, frames_BTCHW: Tensor, person_B: Tensor) -> UpdateResult:
        """The baseline and stage 1: who."""
        seen = self._seen(frames_BTCHW, "plain")
        return self._step(seen, person_B, {})

    def pictures(self, frames_BCHW: Tensor, colours_BE: Tensor, person_B: Tensor) -> UpdateResult:
        """Who and which colours, in tokens of their own that are kept apart."""
        seen = self._seen(frames_BCHW, "picture")
        own = {
            "colour": colour_loss(seen.colours_BE, colours_BE),
            "disentangling": disentangling_loss(seen.colour_BD, seen.feature_BD),
        }
        return self._step(seen, person_B, own)

    def clips(self, frames_BTCHW: Tensor, person_B: Tensor) -> UpdateResult:
        """Who, from frames that differ."""
        seen = self._seen(frames_BTCHW, "clip")
        return self._step(seen, person_B, {"motion": motion_loss(seen.frame_BTD)})

    def _seen(self, frames: Tensor, way: Way) -> Any:
        """A `CsciOutput` with what that way gives."""
        self.optimizer.zero_grad()  # before activations need the memory
        return self.model(frames, way)

    def _step(self, seen: CsciOutput, person_B: Tensor, own: dict[str, Tensor]) -> UpdateResult:
        features, persons = (gather_batch(each, self.mined_ranks) for each in (seen.feature_BD, person_B))
        losses = {
            "identity": identity_loss(seen.logits_BP, person_B),
            "triplet": soft_triplet_loss(features, persons),
            **own,
        }
        loss = sum(self.weights[name] * value for name, value in losses.items())
        assert isinstance(loss, Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        return UpdateResult(
            {name: value.detach() for name, value in losses.items()},
            identity_accuracy=(seen.logits_BP.argmax(dim=1) == person_B).float().mean(),
        )
