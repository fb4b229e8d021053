"""What an ONNX network takes and gives: the card, ``NAME.yaml``, beside other people's ``NAME.onnx``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from data_tools.clips import ClipOptions
from data_tools.documents import first_problem, parse_yaml, yaml_lines
from data_tools.errors import InputError
from data_tools.files import read_document
from data_tools.loading_options import ResizeFilter
from data_tools.options import Options
from data_tools.wording import shown

Triple = tuple[float, float, float]

ONE_FRAME = ClipOptions(length=1, stride=1, piece=0)
"""Clips of a network that sees one frame at a time: a tracklet's embedding is then the mean over all its frames."""
SMALLEST_SIDE = 16
"""Pixels of a network's input."""
MOST_AS_SHARES = 3.0
"""Largest mean and standard deviation that are taken for those of values from 0 to 1."""


class NetworkCard(Options):
    """The content of ``NAME.yaml``. A pixel becomes (value − mean) / std, where value is from 0 to ``range``."""

    height: int = Field(ge=SMALLEST_SIDE, le=2048)
    """Height in pixels of the network's input."""
    width: int = Field(ge=SMALLEST_SIDE, le=2048)
    """Width in pixels of the network's input."""
    colours: Literal["RGB", "BGR"]
    """Order of the colour channels."""
    range: Literal[1, 255]
    """Value of the brightest pixel, before mean and std: 1 or 255."""
    mean: Triple
    """Subtracted from the values of each channel, in the order of ``colours``. Values are from 0 to ``range``."""
    std: Triple
    """What the result is divided by, in the order of ``colours``. Values are from 0 to ``range``."""
    layout: str
    """Order of the input's axes: N (batch), C (channels), H, W, and T (frames) for a network of clips: NCHW, NHWC,
    NTCHW, NCTHW, … A network without T sees one frame at a time, and a tracklet is the mean over its frames."""
    output: str | None = None
    """Name of the output with the features, (N, D). Default: the only output."""
    clip: ClipOptions | None = None
    """Clips that a network with T was trained on, which it embeds. Default: the graph's number of frames, else the
    recipe's clips."""
    least_frames: int = Field(default=1, ge=1)
    """Fewest frames of a clip that a network with T takes."""
    resize_filter: ResizeFilter = "bilinear"
    """How stored frames of another size are resized."""
    name: str | None = Field(default=None, max_length=100)
    """Name of the network, for titles. Default: that of the file."""

    @field_validator("layout")
    @classmethod
    def _has_each_axis_once(cls, layout: str) -> str:
        if sorted(layout) not in (sorted("NCHW"), sorted("NTCHW")):
            raise ValueError("expected the letters N, C, H, W and, for clips, T, each once")
        return layout

    @model_validator(mode="after")
    def _fits_together(self) -> NetworkCard:
        largest = max(abs(value) for value in (*self.mean, *self.std))
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        if self.range == 1 and largest > MOST_AS_SHARES:
            raise ValueError(f"mean and std of up to {largest:g} are of values from 0 to 255, but range is 1")
        if self.range == 255 and any(self.mean) and largest <= MOST_AS_SHARES:
            raise ValueError(f"mean and std of at most {largest:g} are of values from 0 to 1, but range is 255")
        if self.clip is not None and not self.takes_clips:
            raise ValueError(f"clip is for networks with T, but layout is {self.layout}")
        return self

    @property
    def takes_clips(self) -> bool:
        return "T" in self.layout


def card_beside(file: Path) -> Path:
    """Where the card of an ONNX file is."""
    return file.with_suffix(".yaml")


def read_network_card(path: Path) -> NetworkCard:
    """Read a card.

    Raises:
        InputError: not YAML, or a field is unknown, missing or wrong; the message names the line.
        OSError: it cannot be read.
    """
    content = read_document(path)
    values = parse_yaml(content, path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds {shown(values)}, expected a mapping of settings such as height and layout")
    try:
        return NetworkCard.model_validate(values)
    except ValidationError as error:
        (line,) = yaml_lines(content, [error.errors(include_url=False)[0]["loc"]])
        raise InputError(f"{path}:{f'{line}:' if line else ''} {first_problem(error)}") from None


def example_card(shape: tuple[int | None, ...]) -> str:
    """A card to begin with, as YAML, for a graph whose input has this shape (None: any size)."""
    layouts = ("NTCHW", "NCTHW", "NTHWC") if len(shape) == 5 else ("NCHW", "NHWC")
    layout = next((layout for layout in layouts if _is_possible(layout, shape)), layouts[0])
    size = dict(zip(layout, shape, strict=False))
    values = {
        "height": size.get("H") or 256,
        "width": size.get("W") or 128,
        "colours": "RGB",
        "range": 1,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "layout": layout,
    }
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None).rstrip()


def _is_possible(layout: str, shape: tuple[int | None, ...]) -> bool:
    size = dict(zip(layout, shape, strict=False))
    return size.get("C") in (3, None) and all((size.get(axis) or SMALLEST_SIDE) >= SMALLEST_SIDE for axis in "HW")
