"""The released networks of the reference: their layouts, their weights, and their counterparts here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.backbones.reference_values import REFERENCE, reference_input, reference_tensor
from video_backbones import SpatialPoolName
from video_backbones.backbone import VideoBackbone
from video_backbones.factory import build_backbone


@dataclass(frozen=True)
class ReleasedNetwork:
    """A released network and its counterpart here."""

    layout: str
    name: str
    spatial_pool: SpatialPoolName = "max"

    @property
    def is_image(self) -> bool:
        return self.layout.startswith("resnet50")

    @property
    def state(self) -> dict[str, Tensor]:
        """State dict under the released names, with the reference's values."""
        return {name: reference_tensor(name, shape) for name, shape in LAYOUTS[self.layout]}

    @property
    def frames(self) -> Tensor:
        """float64 (2, T, 3, 64, 32), the input of the reference's features."""
        if self.is_image:
            return reference_input("image", (2, 3, 1, 64, 32))
        return reference_input("clip", (2, 3, 8, 64, 32))

    def build(self, weights: str | Path = "random", **choices: Any) -> VideoBackbone:
        return build_backbone(self.name, weights=weights, **{"spatial_pool": self.spatial_pool, **choices})


LAYOUTS: dict[str, list[tuple[str, list[int]]]] = json.loads((REFERENCE / "checkpoint_layouts.json").read_text())
NETWORKS = (
    ReleasedNetwork("c2dres50", "c2d_resnet50"),
    ReleasedNetwork("i3dres50", "i3d_resnet50"),
    ReleasedNetwork("ap3dres50", "ap3d_resnet50"),
    ReleasedNetwork("nlres50", "nl_resnet50"),
    ReleasedNetwork("ap3dnlres50", "ap3d_nl_resnet50"),
    ReleasedNetwork("resnet50-avg", "c2d_resnet50", "avg"),
    ReleasedNetwork("resnet50-max", "c2d_resnet50", "max"),
    ReleasedNetwork("resnet50-gem", "c2d_resnet50", "gem"),
    ReleasedNetwork("resnet50-maxavg", "c2d_resnet50", "max_avg"),
)
