"""The losses that a recipe can name, a row each: all that names them is made from these rows.

A loss's module is imported when the loss is used: reading a recipe needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Loss:
    """A function of a batch, and the recipe's settings that it takes by name."""

    function: str
    """`module:function` within ccvid.losses; it takes (B, …) values and (B,) int64 classes, and returns a scalar."""
    settings: tuple[str, ...]
    """Of `scale`, `margin` and, for an identity loss, `label_smoothing`."""
    cosines: bool = True
    """Of an identity loss: it takes the cosines of the classifier, not logits."""

    def bound(self, values: Mapping[str, float]) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss with its settings; ``values`` may hold others too."""
        return partial(resolve_name(f"ccvid.losses.{self.function}"), **{name: values[name] for name in self.settings})


IDENTITY_LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss("identity:identity_loss", ("label_smoothing",), cosines=False),
    "arcface": Loss("arcface:arcface_loss", ("scale", "margin")),
    "cosface": Loss("cosface:cosface_loss", ("scale", "margin")),
    "circle": Loss("circle:circle_loss", ("scale", "margin")),
}
"""Between what the identity classifier gives (B, C) and the persons."""

PAIR_LOSSES: dict[str, Loss] = {
    "triplet": Loss("pairs:triplet_loss", ("margin",)),
    "soft_triplet": Loss("soft_triplet:soft_triplet_loss", ()),
    "contrastive": Loss("pairs:contrastive_loss", ("scale",)),
    "cosface": Loss("pairs:pair_cosface_loss", ("scale", "margin")),
    "circle": Loss("pairs:pair_circle_loss", ("scale", "margin")),
}
"""Between the features (B, D) of all workers' batches."""


def losses_with(setting: str, losses: Mapping[str, Loss]) -> list[str]:
    """The names of those that take a setting."""
    return [name for name, loss in losses.items() if setting in loss.settings]
