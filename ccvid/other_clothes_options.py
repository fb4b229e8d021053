"""Settings of showing people in the clothes of others while they are learned. Does not import torch."""

from __future__ import annotations

from pydantic import Field

from data_tools.options import Options


class OtherClothesOptions(Options):
    """Random changes to a clip below the neck, so that the network learns what clothes do not change."""

    neck: float = Field(default=0.22, ge=0, le=1)
    """Share of the height of a crop above the neck."""
    swapped_share: float = Field(default=0.7, ge=0, le=1)
    """Probability that what is below the neck comes from another clip of the batch."""
    hidden_share: float = Field(default=0.3, ge=0, le=1)
    """Probability that what is below the neck is left out."""
