"""The card of an exported model: ``card.json``, written beside its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from ccvid.config import ModelOptions
from ccvid.network_card import NetworkCard
from data_tools.clips import ClipOptions
from data_tools.documents import parse_model
from data_tools.errors import InputError
from data_tools.files import read_document
from data_tools.options import Options

CARD_FILE = "card.json"
ONNX_FILE = "model.onnx"


class Deviation(Options):
    """How far an exported model's features are from the original's on real clips."""

    clips: int = Field(ge=1)
    largest_difference: float = Field(ge=0)
    """Largest difference of any feature value, divided by the largest absolute value of all features."""
    least_cosine: float


class ModelCard(Options):
    """The content of ``card.json``."""

    format_version: Literal[1] = 1
    fingerprint: str
    """SHA-256 of the weights."""
    model: ModelOptions
    clip: ClipOptions | None
    """The clips it was trained on; None if unknown."""
    feature_size: int = Field(ge=1)
    least_frames: int = Field(ge=1)
    most_frames: int | None
    """Most frames per clip that the exported graphs accept; None: no limit."""
    frames: str = "uint8 RGB in [0, 255], (clips, frames, 3, height, width); the graph normalises them"
    features: str = (
        "float32 (clips, feature_size); a tracklet's embedding is the mean of its clips' features, scaled to length 1"
    )
    torch_version: str
    opset: int
    checked: Mapping[str, Deviation]
    """Deviation of each file's features from the original model's."""
    sha256: Mapping[str, str]
    """SHA-256 of each file beside the card."""

    @property
    def network(self) -> NetworkCard:
        """What the graphs take, which normalise their frames themselves."""
        return NetworkCard(
            name=self.model.backbone,
            height=self.model.height,
            width=self.model.width,
            colours="RGB",
            range=255,
            mean=(0, 0, 0),
            std=(1, 1, 1),
            layout="NTCHW",
            clip=self.clip,
            least_frames=self.least_frames,
            resize_filter=self.model.resize_filter,
        )


def read_card(folder: Path) -> ModelCard:
    """Read an export's card; InputError if it is missing or invalid."""
    path = folder / CARD_FILE
    try:
        return parse_model(ModelCard, read_document(path), path)
    except OSError:
        raise InputError(f"{path}: cannot be read; an exported model needs it next to {ONNX_FILE}") from None
