"""A detector of heads or faces that the user gives as an ONNX file.

The graph has one input, a picture as uint8 RGB (1, 3, H, W) or (1, H, W, 3), and one output, boxes as float32 (N, 4):
left, top, right and bottom in pixels of the input, N of 0 or more. Thresholds and the suppression of overlapping boxes
are the graph's own. H and W are fixed, or free, and then ``FREE_SIZE``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.report.film_strip import Picture
from data_tools.errors import InputError
from data_tools.files import read_document
from data_tools.storage import StorageFolder
from data_tools.wording import first_line

FREE_SIZE = (256, 128)
"""(height, width) in pixels of the crops that a graph with free sizes is given."""
MOST_BYTES = 2**31
CONTRACT = "one uint8 input (1, 3, H, W) or (1, H, W, 3) and one float32 output (N, 4)"


class HeadDetector:
    """Finds heads with onnxruntime; see :func:`read_detector`. May be used by several threads at a time.

    Args:
        place: how messages name the file.
        content: its bytes.

    Raises:
        InputError: onnxruntime is missing or cannot load it, or its input or output is another.
    """

    def __init__(self, place: str, content: bytes) -> None:
        self._place, self._session = place, _session(place, content)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        found = [f"{'/'.join(map(str, [*end.shape]))} {end.type}" for end in (*inputs, *outputs)]
        kinds = [end.type for end in (*inputs, *outputs)]
        shape = inputs[0].shape if len(inputs) == 1 else []
        self._channels_first = len(shape) == 4 and shape[1] == 3
        if kinds != ["tensor(uint8)", "tensor(float)"] or not (self._channels_first or [*shape[3:]] == [3]):
            raise InputError(f"{place}: has inputs and outputs {', '.join(found)}; a detector has {CONTRACT}")
        sides = shape[2:] if self._channels_first else shape[1:3]
        height, width = (side if isinstance(side, int) else free for side, free in zip(sides, FREE_SIZE, strict=True))
        self.frame_size = height, width
        self._input = inputs[0].name

    def find(self, crop_HWC: Picture) -> npt.NDArray[np.float64]:
        """Left, top, width and height of each head in a crop of ``frame_size``, RGB uint8: float64 (N, 4), in pixels.

        Raises:
            InputError: the graph fails, or gives something else than boxes.
        """
        frame = np.ascontiguousarray(crop_HWC.transpose(2, 0, 1) if self._channels_first else crop_HWC)[None]
        try:
            (found,) = self._session.run(None, {self._input: frame})
        except Exception as error:  # onnxruntime's errors have no common base class
            raise InputError(f"{self._place}: fails on a crop: {first_line(error)}") from None
        if found.ndim != 2 or found.shape[1] != 4 or not np.isfinite(found).all():
            raise InputError(f"{self._place}: gives {found.shape} values, expected (N, 4), all of them finite")
        corner_N4 = found.astype(np.float64)
        size_N2 = corner_N4[:, 2:] - corner_N4[:, :2]
        if (size_N2 < 0).any():
            box = corner_N4[(size_N2 < 0).any(axis=1)][0].round(1).tolist()
            raise InputError(f"{self._place}: gives a box {box}, expected left, top, right, bottom")
        return np.concatenate([corner_N4[:, :2], size_N2], axis=1)


def read_detector(place: str) -> HeadDetector:
    """Read the detector at a path or URI.

    Raises:
        InputError: there is no such file, or as ``HeadDetector``.
        OSError: it cannot be read.
    """
    file = StorageFolder(place)
    try:
        with file.parent.fetched(file.name) as path:
            content = read_document(path, MOST_BYTES)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{place}: no such file; --report.mosaic_detector takes an ONNX file") from None
    return HeadDetector(place, content)


def _session(place: str, content: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise InputError("a detector needs onnxruntime: pip install 'ccvid[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # pictures are made on all CPUs already
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        raise InputError(f"{place}: onnxruntime cannot load it: {first_line(error)}") from None
