"""Run any re-id network in ONNX with onnxruntime, as its card says: an export of ours, or other people's.

Needs neither the training code nor the PyTorch network.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ccvid.exported_model import CARD_FILE, ModelCard, read_card
from ccvid.network_card import ONE_FRAME, NetworkCard, card_beside, example_card, read_network_card
from data_tools.clips import ClipOptions
from data_tools.errors import InputError
from data_tools.files import read_document
from data_tools.wording import first_line, one_line, shown

MOST_GRAPH_BYTES = 2**31
"""The most that ONNX can keep in one file."""
INPUT_TYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}


@dataclass(frozen=True, slots=True)
class GraphInput:
    """The input of a graph: its name, axes (None: any size) and type."""

    name: str
    shape: tuple[int | None, ...]
    dtype: npt.DTypeLike

    @classmethod
    def of(cls, session: Any, file: object) -> GraphInput:
        """Raises InputError if there is not exactly one input of a known type."""
        inputs = session.get_inputs()
        if len(inputs) != 1:
            names = one_line(", ".join(found.name for found in inputs) or "none")
            raise InputError(f"{file}: has {len(inputs)} inputs ({names}), expected one, the frames")
        (found,) = inputs
        if found.type not in INPUT_TYPES:
            raise InputError(
                f"{file}: input {shown(found.name)} is {found.type}, expected one of {', '.join(INPUT_TYPES)}"
            )
        shape = tuple(size if isinstance(size, int) else None for size in found.shape)
        return cls(found.name, shape, INPUT_TYPES[found.type])

    def __str__(self) -> str:
        sizes = " x ".join("any" if size is None else str(size) for size in self.shape)
        return f"input {shown(self.name)} is {np.dtype(self.dtype)} {sizes}"


class OnnxModel:
    """Embeds clips with onnxruntime; see :func:`read_onnx_model`. Can be pickled and sent to other processes.

    Args:
        card: what the graph takes.
        content: the graph with its weights.
        fingerprint: SHA-256 of all that the features depend on.
        place: the file, for messages.

    Raises:
        InputError: onnxruntime is not installed or cannot run the graph, or the card does not fit it.
    """

    def __init__(self, card: NetworkCard, content: bytes, fingerprint: str, place: str) -> None:
        self.card, self.fingerprint = card, fingerprint
        self._content, self._place = content, place
        self.device = torch.device("cpu")  # where callers put the frames; onnxruntime copies them from there
        self._session = open_session(content, place)
        self._input = GraphInput.of(self._session, place)
        _check_input(card, self._input, place)
        self._output = _output_name(card, [found.name for found in self._session.get_outputs()], place)
        self._scale, self._shift = _scale_and_shift(card)
        frames = self.frames or max(card.least_frames, self.clip.length if self.clip else 1)
        self.feature_size = self._run(torch.zeros((1, frames, 3, card.height, card.width), dtype=torch.uint8)).shape[1]

    def __reduce__(self) -> tuple[type[OnnxModel], tuple[NetworkCard, bytes, str, str]]:
        return OnnxModel, (self.card, self._content, self.fingerprint, self._place)

    @property
    def frames(self) -> int | None:
        """Frames of every clip that the graph takes; None: any number."""
        return self._input.shape[self.card.layout.index("T")] if self.card.takes_clips else None

    @property
    def parameters(self) -> int | None:
        """The number of values in the graph's weights; None if onnx is not installed."""
        try:
            import onnx
        except ImportError:
            return None
        graph = onnx.load_model_from_string(self._content).graph
        return sum(int(math.prod(weight.dims)) for weight in graph.initializer)

    @property
    def clip(self) -> ClipOptions | None:
        """The clips to embed; None: the recipe's."""
        if not self.card.takes_clips:
            return ONE_FRAME
        if self.card.clip is None and self.frames is not None:
            return ClipOptions(length=self.frames)
        return self.card.clip

    def embed_frames(self, frames_BTCHW: Tensor) -> Tensor:
        """uint8 RGB (B, T, 3, H, W) -> float32 (B, D); for a network of single frames the mean of the T features.

        Raises:
            InputError: the graph does not accept clips of this length.
        """
        frames, least, most = frames_BTCHW.shape[1], self.card.least_frames, self.frames
        if self.card.takes_clips and not (most or least) <= frames <= (most or frames):
            taken = f"{least} or more" if most is None else f"exactly {most}"
            raise InputError(f"{self._place}: takes clips of {taken} frames, got {frames}")
        return self._run(frames_BTCHW)

    def _run(self, frames_BTCHW: Tensor) -> Tensor:
        clips, frames = frames_BTCHW.shape[:2]
        if self.card.takes_clips:
            return self._features(self._prepared(frames_BTCHW, "NTCHW"))
        feature_ND = self._features(self._prepared(frames_BTCHW.flatten(0, 1), "NCHW"))
        return feature_ND.view(clips, frames, -1).mean(1)

    def _prepared(self, frames: Tensor, axes: str) -> npt.NDArray[Any]:
        """The graph's input for frames whose axes are ``axes``, but for the number of the batch."""
        if self.card.colours == "BGR":
            frames = frames.flip(-3)
        if self._input.dtype != np.uint8:
            frames = torch.addcmul(self._shift, frames.float(), self._scale)
        laid_out = frames.permute([axes.index(axis) for axis in self.card.layout])
        return laid_out.numpy().astype(self._input.dtype, order="C")

    def _features(self, prepared: npt.NDArray[Any]) -> Tensor:
        """float32 (N, D); a graph with a batch of fixed size gets the last one filled up with copies."""
        axis = self.card.layout.index("N")
        count, fixed = prepared.shape[axis], self._input.shape[axis]
        batches = []
        for start in range(0, count, fixed or count):
            numbers = np.minimum(np.arange(start, start + (fixed or count)), count - 1)
            batches.append(self._call(np.ascontiguousarray(prepared.take(numbers, axis)), len(numbers)))
        return torch.from_numpy(np.concatenate(batches)[:count])

    def _call(self, batch: npt.NDArray[Any], size: int) -> npt.NDArray[np.float32]:
        try:
            (feature,) = self._session.run([self._output], {self._input.name: batch})
        except Exception as error:  # onnxruntime's errors have no common base class
            raise InputError(f"{self._place}: onnxruntime cannot run it: {first_line(error)}") from None
        shape = np.shape(feature)
        if len(shape) < 2 or shape[0] != size or np.prod(shape[2:]) != 1 or np.asarray(feature).dtype.kind != "f":
            raise InputError(
                f"{self._place}: output {shown(self._output)} is {np.asarray(feature).dtype} {shape} for a batch of "
                f"{size}, expected floats of shape ({size}, features); name another with output in the card"
            )
        return np.asarray(feature).reshape(shape[:2]).astype(np.float32)


def read_onnx_model(file: Path) -> OnnxModel:
    """Read a network in ONNX and the card beside it: ``NAME.yaml``, or ``card.json`` of an export of ours.

    Raises:
        InputError: a file is missing or damaged, onnxruntime is not installed or cannot load the graph, or the card
            does not fit it.
    """
    try:
        content = read_document(file, MOST_GRAPH_BYTES)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        card = read_network_card(card_beside(file))
    except FileNotFoundError:
        if not (file.parent / CARD_FILE).exists():
            raise _no_card(file, _whole(content, file)) from None
        own = read_card(file.parent)
        check_content(own, content, file)
        return OnnxModel(own.network, content, own.sha256[file.name], str(file))
    except OSError as error:
        raise InputError(f"{card_beside(file)}: cannot be read: {error.strerror}") from None
    content = _whole(content, file)
    print_ = hashlib.sha256(card.model_dump_json(exclude={"name"}).encode() + content)
    return OnnxModel(card, content, print_.hexdigest(), str(file))


def check_content(card: ModelCard, content: bytes, file: Path) -> None:
    """Raise InputError if the file is not the one that was exported with the card."""
    if hashlib.sha256(content).hexdigest() != card.sha256.get(file.name):
        raise InputError(f"{file}: its SHA-256 differs from the one in {CARD_FILE}; export the model again")


def open_session(content: bytes, place: object) -> Any:
    """An onnxruntime session with as many threads as torch; InputError if it is not installed or cannot load it."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError("an .onnx model needs onnxruntime: pip install 'ccvid[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(content, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime's errors have no common base class
        raise InputError(f"{place}: onnxruntime cannot load it: {first_line(error)}") from None


def _whole(content: bytes, file: Path) -> bytes:
    """The graph with the weights that it keeps in other files beside it, as exporters do with large networks."""
    if b"location" not in content:  # the key under which a graph names such a file
        return content
    try:
        import onnx
        from onnx.external_data_helper import load_external_data_for_model

        model = onnx.load_model_from_string(content)
        load_external_data_for_model(model, str(file.parent))
        whole: bytes = model.SerializeToString()
        return whole
    except Exception as error:  # of protobuf, of onnx, of the file system
        raise InputError(f"{file}: its weights in other files cannot be read: {first_line(error)}") from None


def _no_card(file: Path, content: bytes) -> InputError:
    found = GraphInput.of(open_session(content, file), file)
    return InputError(
        f"{file}: no {card_beside(file).name} beside it that says what the network takes; its {found}. Write, for "
        f"example, with the values of its training:\n{example_card(found.shape)}"
    )


def _check_input(card: NetworkCard, graph: GraphInput, file: str) -> None:
    """Raise InputError, naming both, if the card does not fit the graph."""
    place = card_beside(Path(file)).name
    if len(graph.shape) != len(card.layout):
        raise InputError(f"{file}: {graph}, but {place} says layout {card.layout}, which has {len(card.layout)} axes")
    frames = None if card.clip is None else card.clip.length
    wanted = {"C": 3, "H": card.height, "W": card.width, "T": frames}
    for axis, size in zip(card.layout, graph.shape, strict=True):
        said = wanted.get(axis)
        if size is not None and said is not None and size != said:
            raise InputError(f"{file}: {graph}, but {place} says layout {card.layout} with {axis} of {said}")
    if graph.dtype == np.uint8 and (card.range, card.mean, card.std) != (255, (0, 0, 0), (1, 1, 1)):
        raise InputError(
            f"{file}: {graph}, which takes pixels as they are, but {place} says range {card.range}, mean "
            f"{list(card.mean)} and std {list(card.std)}, expected 255, [0, 0, 0] and [1, 1, 1]"
        )


def _output_name(card: NetworkCard, names: list[str], file: str) -> str:
    place, there = card_beside(Path(file)).name, one_line(", ".join(names))
    if card.output is None and len(names) > 1:
        raise InputError(f"{file}: has the outputs {there}, but {place} names none of them as output")
    if card.output is not None and card.output not in names:
        raise InputError(f"{file}: has the outputs {there}, but {place} says output {shown(card.output)}")
    return card.output or names[0]


def _scale_and_shift(card: NetworkCard) -> tuple[Tensor, Tensor]:
    """float32 (3, 1, 1): what turns a byte of each channel into the network's value."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (card.mean, card.std))
    scale, shift = card.range / (255 * std), -mean / std
    return scale.float().view(3, 1, 1), shift.float().view(3, 1, 1)
