"""What a method gives the training loop: the parts that it trains, and its passes over the training items.

Adding a method takes its losses, one function of this kind, and a row of ``ccvid/method_choices.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ccvid.config import Recipe
from ccvid.retrieval.embedding.clip_embedder import ClipEmbedder
from ccvid.training.checkpoint import TrainedParts
from ccvid.training.context import RunContext
from ccvid.training.split import TrainingSplit
from ccvid.training.update_result import UpdateResult
from data_tools.clips import ClipOptions
from data_tools.loader import ClipBatch, Integers
from data_tools.loading_options import AugmentOptions, ResizeFilter


class BatchUpdate(Protocol):
    """Trains with one batch."""

    def __call__(self, batch: ClipBatch, epoch: int) -> UpdateResult:
        """Update all that the method trains.

        Args:
            batch: uint8 frames with their labels, on the run's device.
            epoch: Epochs done before this one.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPass:
    """One pass over the training items: how their clips are made, and the update that each batch serves."""

    clip: ClipOptions
    augment: AugmentOptions
    resize_filter: ResizeFilter
    update: BatchUpdate

    @classmethod
    def of(cls, recipe: Recipe, update: BatchUpdate) -> TrainingPass:
        """With the recipe's own clips."""
        resize_filter = recipe.model.resize_filter
        return cls(clip=recipe.clip, augment=recipe.augment, resize_filter=resize_filter, update=update)


class FoundClasses(Protocol):
    """Classes of the training items that training finds itself and renews, instead of labels."""

    @property
    def rows(self) -> Sequence[int]:
        """The stored rows of the training tracklets."""

    @property
    def embedder(self) -> ClipEmbedder:
        """What embeds them to find classes; in evaluation mode."""

    def due(self, epoch: int) -> bool:
        """Whether to renew at the start of an epoch."""

    def find(self, embedding_ND: Tensor, epoch: int) -> Integers:
        """The class of each tracklet, (N,) int64, from their embeddings; run by rank 0 alone.

        Raises:
            InputError: there are no classes worth training with.
        """

    def renew(self, class_N: Integers, embedding_ND: Tensor) -> None:
        """Train with these classes from now on."""

    def class_of(self, tracklet_I: Integers) -> Integers:
        """The classes now in force of some tracklets."""


@dataclass(frozen=True, slots=True)
class Training:
    """An epoch is each of the passes in turn. All have the same steps: the sampler's."""

    parts: TrainedParts
    passes: tuple[TrainingPass, ...]
    found: FoundClasses | None = None
    """None: classes are the persons of the split."""


class TrainingBuilder(Protocol):
    """Builds a method."""

    def __call__(self, recipe: Recipe, split: TrainingSplit, run: RunContext) -> Training:
        """What the recipe trains, on the run's device.

        Raises:
            InputError: the recipe's network or data do not fit the method.
        """
