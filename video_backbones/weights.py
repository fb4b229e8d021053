"""Weights from torchvision or a file, checked name by name before they are taken."""

from __future__ import annotations

import pickle
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import WeightsEnum

from video_backbones.backbone import VideoBackbone
from video_backbones.choices import WeightsError

_TIMEOUT_SECONDS = 15.0
_CLASSIFIERS = ("fc.", "head.", "classifier.")
_TAIL = ("bn.", "spatial_pool.", "temporal_pool.")
_NUMPY_NUMBERS: list[Any] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "b1")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""All that torch's safe reader must be told of to read a NumPy number: they make numbers, and nothing else."""


def fetch_weights(published: WeightsEnum) -> dict[str, Tensor]:
    """torchvision's weights, from its cache or else its server, checked by their hash.

    Raises:
        WeightsError: They are not in the cache and cannot be downloaded, or the cached file is damaged.
    """
    try:
        with _network_timeout():
            return dict(published.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:  # network, hash, or whatever unpickling a damaged file meets
        cached = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rsplit("/", 1)[-1]
        remedy = f"delete {cached}" if cached.exists() else f"download it elsewhere and put it at {cached}"
        raise WeightsError(
            f"cannot get {published.url}: {_first_line(error)}; {remedy}, give the path of a weights file instead, "
            "or ask for random weights"
        ) from error


def read_checkpoint(file: Path) -> dict[Any, Any]:
    """What `.safetensors` or torch's own format holds; nothing in it is executed.

    Besides tensors and plain values, numbers of NumPy are read, which the released checkpoints hold.

    Raises:
        WeightsError: No such file, damaged, holding other objects, or not a mapping.
    """
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises almost anything
        raise WeightsError(
            f"{file}: cannot be read as weights ({_reason(error)}); expected a .safetensors file or a "
            "state dict saved by torch.save (imagenet, kinetics and random are the names that need no file)"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file}: expected names mapped to tensors, got {type(content).__name__}")
    return content


def read_weights(file: Path) -> dict[str, Tensor]:
    """A backbone's state from a file: a bare state dict, a released checkpoint, or a model of ours.

    A released checkpoint has it under `model_state_dict`; ours names it `backbone.*`, and the identity classifier
    beside it is left out. `module.` before every name, DataParallel's, is taken off.

    Raises:
        WeightsError: No such file, damaged, or not a mapping of names to tensors.
    """
    content = read_checkpoint(file)
    state = named_tensors(content.get("model_state_dict", content), file)
    if any(name.startswith("backbone.") for name in state):
        kept = {name: value for name, value in state.items() if not name.startswith("identity_classifier.")}
        return {name.removeprefix("backbone."): value for name, value in kept.items()}
    return state


def named_tensors(content: object, origin: object) -> dict[str, Tensor]:
    """A state dict without DataParallel's `module.`; raises WeightsError where it is none."""
    if not isinstance(content, dict):
        raise WeightsError(f"{origin}: expected names mapped to tensors, got {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{origin}: expected names mapped to tensors, got {name!r}: {type(value).__name__}")
    wrapped = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in content.items()}


def load_weights(backbone: VideoBackbone, state: Mapping[str, Tensor], origin: str, *, whole: bool = False) -> None:
    """Copy `state` into the backbone: all of it or, on an error, nothing.

    A classification layer (`fc.*`, `head.*`, `classifier.*`) is passed over. The counters `num_batches_tracked` may
    be missing and, unless `whole`, the neck (`bn.*`) and learned pools (`spatial_pool.*`, `temporal_pool.*`): they keep
    their values.

    Raises:
        WeightsError: Names are missing or unexpected, or shapes differ; the first ten faults are listed.
    """
    own = backbone.state_dict()
    given = {name: value for name, value in state.items() if not name.startswith(_CLASSIFIERS)}
    needed = [n for n in own if (whole or not n.startswith(_TAIL)) and not n.endswith(".num_batches_tracked")]
    faults = [f"missing {name}" for name in needed if name not in given]
    faults += [f"unexpected {name}" for name in given if name not in own]
    faults += [
        f"{name} has shape {tuple(value.shape)}, expected {tuple(own[name].shape)}"
        for name, value in given.items()
        if name in own and value.shape != own[name].shape
    ]
    if faults:
        more = f"; and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise WeightsError(f"{origin}: does not fit {type(backbone).__name__}: {'; '.join(faults[:10])}{more}")
    backbone.load_state_dict({**own, **given})


@contextmanager
def _network_timeout() -> Iterator[None]:
    """torch.hub sets no timeout of its own: a silent network would hang it for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    """Why a file was not read; torch's own words on a refused pickle advise to run whatever it holds."""
    if "PytorchStreamReader" in str(error):
        return "damaged or cut off"
    if not isinstance(error, pickle.UnpicklingError):
        return _first_line(error)
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"it holds {found[1]}, which could run code: refused" if found else "damaged, or not saved by torch.save"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
