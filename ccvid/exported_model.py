"""Run an exported model: ``model.onnx`` with onnxruntime, and the card that describes it.

Needs neither the training code nor the PyTorch network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ccvid.config import ModelOptions
from data_tools.clips import ClipOptions
from data_tools.documents import parse_model
from data_tools.errors import InputError
from data_tools.files import read_document
from data_tools.options import Options
from data_tools.wording import first_line

CARD_FILE = "card.json"
ONNX_FILE = "model.onnx"
MOST_GRAPH_BYTES = 2**31
"""The most that ONNX can keep in one file."""


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


class OnnxModel:
    """Embeds clips with onnxruntime; see :func:`read_onnx_model`. Can be pickled and sent to other processes."""

    def __init__(self, card: ModelCard, content: bytes) -> None:
        self.card, self._content = card, content
        self.device = torch.device("cpu")  # where callers put the frames; onnxruntime copies them from there
        self.feature_size = card.feature_size
        self._session = _session(content)

    def __reduce__(self) -> tuple[type[OnnxModel], tuple[ModelCard, bytes]]:
        return OnnxModel, (self.card, self._content)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file, not of its weights: its features differ from PyTorch's in the last digits."""
        return self.card.sha256[ONNX_FILE]

    def embed_frames(self, frames_BTCHW: Tensor) -> Tensor:
        """uint8 (B, T, 3, H, W) -> float32 (B, D).

        Raises:
            InputError: the graph does not accept clips of this length.
        """
        frames, least, most = frames_BTCHW.shape[1], self.card.least_frames, self.card.most_frames
        if not least <= frames <= (most or frames):
            taken = (
                f"{least} or more" if most is None else f"exactly {least}" if most == least else f"{least} to {most}"
            )
            raise InputError(f"{ONNX_FILE}: takes clips of {taken} frames, got {frames}")
        (feature_BD,) = self._session.run(None, {"frames": np.ascontiguousarray(frames_BTCHW.numpy())})
        return torch.from_numpy(feature_BD)


def read_card(folder: Path) -> ModelCard:
    """Read an export's card; InputError if it is missing or invalid."""
    path = folder / CARD_FILE
    try:
        return parse_model(ModelCard, read_document(path), path)
    except OSError:
        raise InputError(f"{path}: cannot be read; an exported model needs it next to {ONNX_FILE}") from None


def read_onnx_model(file: Path) -> OnnxModel:
    """Read an exported ``model.onnx`` and the card next to it.

    Raises:
        InputError: a file is missing or damaged, or onnxruntime is not installed or cannot load it.
    """
    card = read_card(file.parent)
    try:
        content = read_document(file, MOST_GRAPH_BYTES)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != card.sha256.get(ONNX_FILE):
        raise InputError(f"{file}: its SHA-256 differs from the one in {CARD_FILE}; export the model again")
    return OnnxModel(card, content)


def _session(content: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise InputError("an .onnx model needs onnxruntime: pip install 'ccvid[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(content, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime's errors have no common base class
        raise InputError(f"{ONNX_FILE}: onnxruntime cannot load it: {first_line(error)}") from None
