"""What an update of any method tells about its batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """Losses and accuracy of one batch before its updates: detached scalars on the device, not waited for."""

    losses: Mapping[str, Tensor]
    """By name, unweighted, in the order in which they are shown; without those that were not used."""
    identity_accuracy: Tensor
    """Share of the batch whose largest logit is the right person, in [0, 1]."""
