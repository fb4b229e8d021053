"""The tiny networks of CSCI's reference vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tests.backbones.reference_values import REFERENCE, reference_tensor
from video_backbones.choices import AttentionName, BackboneChoices
from video_backbones.csci.networks import CsciNetwork
from video_backbones.csci.rotary import RotaryTable
from video_backbones.csci.trunk import eva_clip

FOLDER = REFERENCE / "csci"
SIZE, PATCH, GRID = (48, 32), 8, (6, 4)
FRAMES = 4

Kind = TypeVar("Kind", bound=CsciNetwork)


def vectors(file: str) -> dict[str, Tensor]:
    """The arrays of one of the files."""
    with np.load(Path(FOLDER, f"{file}.npz")) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def tiny(kind: type[Kind], *, attention: AttentionName = "s2a", drop_path: float = 0) -> Kind:
    """D = 32, 3 blocks of 2 heads; random weights, in float32."""
    choices = BackboneChoices(clip_size=(FRAMES, *SIZE), attention=attention)
    network = eva_clip(SIZE, PATCH, width=32, depth=3, heads=2, drop_path=drop_path)
    return kind(network, choices, RotaryTable(GRID, 16))


def filled(kind: type[Kind], *, attention: AttentionName = "s2a") -> Kind:
    """With the reference's weights, in float64 and evaluation mode."""
    network = tiny(kind, attention=attention).double().eval()
    state = {name: reference_tensor(name, value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    return network
