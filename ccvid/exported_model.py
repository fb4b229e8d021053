"""A model as other programs run it: ``model.onnx`` with onnxruntime, and the card that says how.

Runs without the training's code and without PyTorch's network.
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

CARD_FILE = "card.json"
ONNX_FILE = "model.onnx"
MOST_GRAPH_BYTES = 2**31
"""More ONNX does not keep in one file."""


class Deviation(Options):
    """How far an exported model's features are from the original's on real clips."""

    clips: int = Field(ge=1)
    largest_difference: float = Field(ge=0)
    """Of any value of a feature, by the largest absolute value of all features."""
    least_cosine: float


class ModelCard(Options):
    """What ``card.json`` holds."""

    format_version: Literal[1] = 1
    fingerprint: str
    """Of the weights."""
    model: ModelOptions
    clip: ClipOptions | None
    """The clips it was trained on; None where that is not known."""
    feature_size: int = Field(ge=1)
    least_frames: int = Field(ge=1)
    most_frames: int | None
    """Frames of a clip that the exported graphs take; None: any number from ``least_frames`` on."""
    frames: str = "uint8 RGB of 0 to 255, (clips, frames, 3, height, width); the graph normalises them"
    features: str = "float32 (clips, feature_size); a tracklet's embedding is the mean of its clips', at length 1"
    torch_version: str
    opset: int
    checked: Mapping[str, Deviation]
    """By file."""
    sha256: Mapping[str, str]
    """Of each file beside the card."""


class OnnxModel:
    """Embeds clips with onnxruntime; made by :func:`read_onnx_model`. It can be sent to other processes."""

    def __init__(self, card: ModelCard, content: bytes) -> None:
        self.card, self._content = card, content
        self.device = torch.device("cpu")  # where frames are given; onnxruntime takes them from there
        self.feature_size = card.feature_size
        self._session = _session(content)

    def __reduce__(self) -> tuple[type[OnnxModel], tuple[ModelCard, bytes]]:
        return OnnxModel, (self.card, self._content)

    @property
    def fingerprint(self) -> str:
        """Of the file, not of the weights in it: its features differ from torch's in their last digits."""
        return self.card.sha256[ONNX_FILE]

    def embed_frames(self, frames_BTCHW: Tensor) -> Tensor:
        """uint8 (B, T, 3, H, W) -> float32 (B, D).

        Raises:
            InputError: clips of a length that the graph does not take.
        """
        frames, card = frames_BTCHW.shape[1], self.card
        if not card.least_frames <= frames <= (card.most_frames or frames):
            most = "any number from" if card.most_frames is None else f"{card.least_frames} to {card.most_frames}, not"
            raise InputError(f"{ONNX_FILE}: clips of {frames} frames; it takes {most} {card.least_frames}")
        (feature_BD,) = self._session.run(None, {"frames": np.ascontiguousarray(frames_BTCHW.numpy())})
        return torch.from_numpy(feature_BD)


def read_card(folder: Path) -> ModelCard:
    """Read an export's card; InputError where it is missing or not valid."""
    path = folder / CARD_FILE
    try:
        return parse_model(ModelCard, read_document(path), path)
    except OSError:
        raise InputError(f"{path}: cannot be read; an exported model has it beside {ONNX_FILE}") from None


def read_onnx_model(file: Path) -> OnnxModel:
    """Read an exported ``model.onnx``, with its card beside it.

    Raises:
        InputError: a file is missing or damaged, or onnxruntime is not installed or refuses it.
    """
    card = read_card(file.parent)
    try:
        content = read_document(file, MOST_GRAPH_BYTES)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != card.sha256.get(ONNX_FILE):
        raise InputError(f"{file}: not the file that {CARD_FILE} was written for (its SHA-256 differs)")
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
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise InputError(f"{ONNX_FILE}: onnxruntime refuses it: {str(error).splitlines()[0]}") from None
