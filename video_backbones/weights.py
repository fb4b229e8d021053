"""Weights from torchvision or a file, checked name by name before they are taken."""

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
_CLASSIFIERS = ("fc.", "head.", "classifier.")
_ZIP = b"PK\x03\x04"
_MOST_REPEATED_BYTES = 2**28
"""That one value of a tensor may stand for."""
MOST_VALUES = 10**7
"""Of a pickle, beside tensors; a network has some ten thousand."""
_LONGEST_SHOWN = 80
"""Of a name or a shape within a message, which lists ten of them."""
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
    """What torch.save wrote: tensors, plain values and NumPy's numbers, on the CPU.

    A damaged file raises almost anything. An archive whose parts are compressed is refused, for a small one could fill
    the memory, and so are objects that stand for many more by naming each other; torch.save makes none of these.
    """
    with file.open("rb") as stream:
        if stream.read(len(_ZIP)) == _ZIP:
            with zipfile.ZipFile(stream) as archive:
                if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                    raise ValueError("its parts are compressed, as torch.save leaves none")
                values = max(count_values(archive.open(n)) for n in archive.namelist() if n.endswith("data.pkl"))
        else:
            stream.seek(0)
            values = count_values(stream)
    if values > MOST_VALUES:
        raise ValueError(f"its parts name each other so often that they stand for more than {MOST_VALUES} values")
    with torch.serialization.safe_globals(_NUMPY_NUMBERS):
        return torch.load(file, map_location="cpu", weights_only=True)


def read_weights(file: Path) -> dict[str, Tensor]:
    """A backbone's state from a file: a bare state dict, a released checkpoint, or a model of ours.

    A released checkpoint has it under `model_state_dict`; ours names it `backbone.*`, and the identity classifier
    beside it is left out. `module.` before every name, DataParallel's, is taken off.

    Raises:
        WeightsError: No such file, damaged, not a mapping of names to tensors, or a value is not finite.
    """
    content = read_checkpoint(file)
    state = named_tensors(content.get("model_state_dict", content), file)
    check_finite(state, file)
    if any(name.startswith("backbone.") for name in state):
        kept = {name: value for name, value in state.items() if not name.startswith("identity_classifier.")}
        return {name.removeprefix("backbone."): value for name, value in kept.items()}
    return state


def named_tensors(content: object, origin: object) -> dict[str, Tensor]:
    """A state dict of plain tensors without DataParallel's `module.`; raises WeightsError where it is none."""
    if not isinstance(content, dict):
        raise WeightsError(f"{origin}: expected names mapped to tensors, got {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{origin}: expected names mapped to tensors, got {_shown(name)}: {type(value).__name__}"
            )
        if not _is_plain(value):
            raise WeightsError(f"{origin}: {_shown_name(name)} is no plain tensor with a value for each of its places")
    wrapped = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in content.items()}


def _is_plain(value: Tensor) -> bool:
    """Neither sparse, nested, quantised nor without values, nor one value that stands for a terabyte of them."""
    if value.is_nested or value.layout != torch.strided or value.is_meta or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= max(value.untyped_storage().nbytes(), _MOST_REPEATED_BYTES)


def load_weights(backbone: VideoBackbone, state: Mapping[str, Tensor], origin: str, *, whole: bool = False) -> None:
    """Copy `state` into the backbone: all of it or, on an error, nothing. NaN and infinity are errors.

    A classification layer (`fc.*`, `head.*`, `classifier.*`) is passed over. The counters `num_batches_tracked` may
    be missing and, unless `whole`, the neck (`bn.*`) and learned pools (`spatial_pool.*`, `temporal_pool.*`): they keep
    their values.

    Raises:
        WeightsError: Names are missing or unexpected, or shapes or types differ; the first ten faults are listed. Or a
            value is not finite; the message names its tensor.
    """
    own = backbone.state_dict()
    given = {name: value for name, value in state.items() if not name.startswith(_CLASSIFIERS)}
    needed = [n for n in own if (whole or not n.startswith(_TAIL)) and not n.endswith(".num_batches_tracked")]
    check_fit(given, own, needed, f"{origin}: does not fit {type(backbone).__name__}")
    check_finite({name: value.to(own[name].dtype) for name, value in given.items()}, origin)
    backbone.load_state_dict({**own, **given})


def check_fit(given: Mapping[str, Tensor], own: Mapping[str, Tensor], needed: Iterable[str], problem: str) -> None:
    """Raise WeightsError, which begins with `problem` and lists the first ten faults, unless `given` can be copied to
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
        return f"{name} is of {value.dtype}, expected {own.dtype}"
    return None


def check_finite(state: Mapping[str, Tensor], origin: object) -> None:
    """Raise WeightsError where a tensor holds NaN or infinity; it names the first such tensor and where in it."""
    for name, value in state.items():
        finite = value.isfinite()
        if not finite.all():
            place = tuple((~finite).nonzero()[0].tolist())
            raise WeightsError(
                f"{origin}: {_shown_name(name)} is {value[place].item()} at {list(place)}, expected finite numbers: "
                "training has broken down, or the file is damaged"
            )


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
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _shown_name(name: str) -> str:
    return name if name.isprintable() and len(name) <= _LONGEST_SHOWN else _shown(name)


def _shown(value: object) -> str:
    """As Python writes it, without what a terminal would obey, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 21]}…{text[-20:]}"
