"""Weights from torchvision or a file, checked name by name before they are loaded."""

from __future__ import annotations

import pickle
import re
import socket
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import WeightsEnum

from video_backbones.backbone import VideoBackbone
from video_backbones.choices import WeightsError, published_kinds
from video_backbones.pickles import count_values

_TIMEOUT_SECONDS = 15.0
_ZIP = b"PK\x03\x04"
_MOST_REPEATED_BYTES = 2**28
"""Largest tensor that may repeat one stored value."""
MOST_VALUES = 10**7
"""Most values in a pickle, besides tensors; a network has about ten thousand."""
_LONGEST_SHOWN = 80
"""Longest name or shape in a message, which lists up to ten of them."""
_NUMPY_NUMBERS: list[Any] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "b1")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""Globals that torch's safe loader must allow to read a NumPy number: they create numbers and nothing else."""


def fetch_weights(published: WeightsEnum) -> dict[str, Tensor]:
    """torchvision's weights, from its cache or its server, verified by their hash.

    Raises:
        WeightsError: They are not in the cache and cannot be downloaded, or the cached file is damaged.
    """
    try:
        with _network_timeout():
            return dict(published.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:  # network, hash, or anything that unpickling a damaged file raises
        cached = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rsplit("/", 1)[-1]
        remedy = f"delete {cached}" if cached.exists() else f"download it elsewhere and put it at {cached}"
        raise WeightsError(
            f"cannot get {published.url}: {first_line(error)}; {remedy}, give the path of a weights file, "
            "or use random weights"
        ) from error


def read_checkpoint(file: Path) -> dict[Any, Any]:
    """Read a `.safetensors` file or torch's own format; nothing in it is executed.

    Besides tensors and plain values, NumPy numbers are read, because released checkpoints contain them.

    Raises:
        WeightsError: The file does not exist, is damaged, contains other objects, or is not a mapping.
    """
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        content = load_torch_file(file)
    except Exception as error:  # a damaged pickle raises almost anything
        names = ", ".join(published_kinds())
        raise WeightsError(
            f"{file}: cannot be read as weights ({_reason(error)}); expected a .safetensors file or a "
            f"state dict saved by torch.save ({names} and random are the names that need no file)"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file}: expected names mapped to tensors, got {type(content).__name__}")
    return content


def load_torch_file(file: Path) -> Any:
    """Read a file of torch.save: tensors, plain values and NumPy numbers, on the CPU.

    A damaged file raises almost anything. Compressed archives are refused, because a small one could fill the memory,
    and so are objects that expand through references; torch.save writes neither.
    """
    with file.open("rb") as stream:
        if stream.read(len(_ZIP)) == _ZIP:
            with zipfile.ZipFile(stream) as archive:
                if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                    raise ValueError("the archive is compressed, expected one as written by torch.save")
                values = max(count_values(archive.open(n)) for n in archive.namelist() if n.endswith("data.pkl"))
        else:
            stream.seek(0)
            values = count_values(stream)
    if values > MOST_VALUES:
        raise ValueError(f"its references expand to more than {MOST_VALUES} values")
    with torch.serialization.safe_globals(_NUMPY_NUMBERS):
        return torch.load(file, map_location="cpu", weights_only=True)


def read_weights(file: Path) -> dict[str, Tensor]:
    """A backbone's state from a file: a bare state dict, a released checkpoint, or one of our models.

    A released checkpoint has it under `model_state_dict`; ours under `backbone.*`, next to the identity classifier,
    which is dropped. DataParallel's prefix `module.` is removed.

    Raises:
        WeightsError: The file does not exist, is damaged, is not a mapping of names to tensors, or has a value that is
            not finite.
    """
    content = read_checkpoint(file)
    state = named_tensors(content.get("model_state_dict", content), file)
    check_finite(state, file)
    if any(name.startswith("backbone.") for name in state):
        kept = {name: value for name, value in state.items() if not name.startswith("identity_classifier.")}
        return {name.removeprefix("backbone."): value for name, value in kept.items()}
    return state


def named_tensors(content: object, origin: object) -> dict[str, Tensor]:
    """A state dict of plain tensors, without DataParallel's `module.`; raises WeightsError if it is not one."""
    if not isinstance(content, dict):
        raise WeightsError(f"{origin}: expected names mapped to tensors, got {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{origin}: expected names mapped to tensors, got {_shown(name)}: {type(value).__name__}"
            )
        if not _is_plain(value):
            raise WeightsError(f"{origin}: {_shown_name(name)} is not a plain dense tensor")
    wrapped = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in content.items()}


def _is_plain(value: Tensor) -> bool:
    """Whether it is not sparse, nested, quantised or meta, and does not repeat one value to a huge size."""
    if value.is_nested or value.layout != torch.strided or value.is_meta or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= max(value.untyped_storage().nbytes(), _MOST_REPEATED_BYTES)


def load_weights(backbone: VideoBackbone, state: Mapping[str, Tensor], origin: str, *, whole: bool = False) -> None:
    """Copy `state` into the backbone: all of it or, on an error, nothing. NaN and infinity are errors.

    What only training needs (`backbone.heads`: classification layers) is ignored. The counters `num_batches_tracked`
    may be missing and, unless `whole`, so may what a starting point lacks (`backbone.is_new`: neck, learned pools);
    they keep their values.

    Raises:
        WeightsError: Names are missing or unexpected, or shapes or types differ (the first ten are listed), or a value
            is not finite (the message names its tensor).
    """
    own = backbone.state_dict()
    given = {name: value for name, value in state.items() if not name.startswith(backbone.heads)}
    needed = [n for n in own if (whole or not backbone.is_new(n)) and not n.endswith(".num_batches_tracked")]
    check_fit(given, own, needed, f"{origin}: does not fit {type(backbone).__name__}")
    check_finite({name: value.to(own[name].dtype) for name, value in given.items()}, origin)
    backbone.load_state_dict({**own, **given})


def check_fit(given: Mapping[str, Tensor], own: Mapping[str, Tensor], needed: Iterable[str], problem: str) -> None:
    """Raise WeightsError, starting with `problem` and listing the first ten mismatches, unless `given` can be copied to
    `own` and has every name in `needed`."""
    faults = [f"missing {name}" for name in needed if name not in given]
    faults += [f"unexpected {_shown_name(name)}" for name in given if name not in own]
    faults += [
        fault for name, value in given.items() if name in own and (fault := _misfit(name, value, own[name])) is not None
    ]
    if faults:
        more = f"; and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise WeightsError(f"{problem}: {'; '.join(faults[:10])}{more}")


def _misfit(name: str, value: Tensor, own: Tensor) -> str | None:
    if value.shape != own.shape:
        return f"{name} has shape {_shown(tuple(value.shape))}, expected {tuple(own.shape)}"
    if value.is_complex() or value.is_floating_point() != own.is_floating_point():
        return f"{name} has dtype {value.dtype}, expected {own.dtype}"
    return None


def check_finite(state: Mapping[str, Tensor], origin: object) -> None:
    """Raise WeightsError if a tensor contains NaN or infinity; names the first such tensor and the position."""
    for name, value in state.items():
        finite = value.isfinite()
        if not finite.all():
            place = tuple((~finite).nonzero()[0].tolist())
            raise WeightsError(
                f"{origin}: {_shown_name(name)} is {value[place].item()} at {list(place)}, expected finite numbers: "
                "training has diverged, or the file is damaged"
            )


@contextmanager
def _network_timeout() -> Iterator[None]:
    """torch.hub sets no timeout, so an unresponsive network would block it forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    """Why a file could not be read; torch's own message on a refused pickle suggests running its code."""
    if "PytorchStreamReader" in str(error):
        return "damaged or truncated"
    if not isinstance(error, pickle.UnpicklingError):
        return first_line(error)
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"refused: {found[1]} in it could run code" if found else "damaged, or not saved by torch.save"


def first_line(error: BaseException) -> str:
    """The first line of what an exception says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _shown_name(name: str) -> str:
    return name if name.isprintable() and len(name) <= _LONGEST_SHOWN else _shown(name)


def _shown(value: object) -> str:
    """The value's repr without control characters, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 21]}…{text[-20:]}"
