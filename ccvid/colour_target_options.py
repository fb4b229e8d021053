"""What the colour token learns to tell of a picture. Does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_tools.options import Options, Rare

ColourPlanes = Literal["mean", "three"]
HistogramKind = Literal["rgb_uv", "rgb"]
LARGEST = 3 * 128**2
"""Most values of a target. The colour head grows with their square: 12,288 take 470 million parameters."""


class ColourTargetOptions(Options):
    """The colour histogram of a picture."""

    kind: Annotated[HistogramKind, Rare()] = "rgb_uv"
    """Kind of histogram. rgb_uv: of log-ratios of the channels, which brightness hardly changes; rgb: of the colours,
    with bins cubed values."""
    planes: Annotated[ColourPlanes, Rare()] = "three"
    """What is kept of an rgb_uv histogram, which has a plane for each channel over the others. three: all planes; mean:
    their mean. A plane has bins squared values."""
    bins: Annotated[int, Rare()] = Field(default=16, ge=2, le=128)
    """Bins along an axis of the histogram. With rgb_uv, the colour head's parameters grow with their fourth power."""
    sigma: Annotated[float, Rare()] = Field(default=0.02, gt=0, le=10)
    """How far a colour reaches into the bins of an rgb_uv histogram, in log-ratios."""
    range_scaled: Annotated[bool, Rare()] = True
    """Scale the histogram so that its smallest value is 0 and its largest 1. False: it sums to 1."""

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> ColourTargetOptions:
        for name in ("planes", "sigma"):
            if self.kind == "rgb" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} needs kind rgb_uv, not rgb")
        if self.size > LARGEST:
            raise ValueError(f"{self.bins} bins of kind {self.kind} make {self.size:,} values, at most {LARGEST:,}")
        return self

    @property
    def size(self) -> int:
        """E, the number of values of a target."""
        return target_size(self.kind, self.planes, self.bins)


def target_size(kind: HistogramKind, planes: ColourPlanes, bins: int) -> int:
    """The number of values of a target: h^2 or 3 h^2, of `rgb` h^3, for h bins along an axis."""
    if kind == "rgb":
        return bins**3
    return bins**2 * {"mean": 1, "three": 3}[planes]
