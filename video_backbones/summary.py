"""A table of the backbones with their sizes and costs.

    python -m video_backbones.summary [NAME ...] [--clip 8 256 128] [--markdown]

GFLOPs are for the forward pass of one clip; a multiply-add counts as two (torch's FlopCounterMode: convolutions, matrix
products and attention).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from video_backbones.choices import BackboneError, backbone_names, csci_names, published_weights
from video_backbones.factory import build_backbone

HEADINGS = ("backbone", "features", "parameters (M)", "GFLOPs", "initial weights besides a file")


@dataclass(frozen=True, slots=True)
class BackboneSummary:
    """One backbone on one clip of T frames, H x W pixels."""

    name: str
    feature_size: int
    parameters: int
    flops: int
    """For the forward pass of one clip."""
    weights: tuple[str, ...]
    """Initial weights that need no file."""


def summarise(name: str, clip_size: tuple[int, int, int]) -> BackboneSummary:
    """Build a backbone with random weights and count its parameters and FLOPs.

    Args:
        name: As for `build_backbone`.
        clip_size: (T, H, W).

    Raises:
        BackboneError: There is no such backbone, or not for such clips.
    """
    backbone = build_backbone(name, weights="random", clip_size=clip_size).eval()
    return BackboneSummary(
        name,
        backbone.feature_size,
        count_parameters(backbone),
        count_flops(backbone, clip_size),
        tuple(published_weights(name)),
    )


def count_parameters(backbone: nn.Module) -> int:
    """The number of values in a network's parameters."""
    return sum(parameter.numel() for parameter in backbone.parameters())


def count_flops(backbone: nn.Module, clip_size: tuple[int, int, int]) -> int:
    """FLOPs of the forward pass of one clip of (T, H, W), on the CPU and in evaluation mode."""
    frames, height, width = clip_size
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # fused attention is not counted by every torch
        backbone(torch.zeros(1, frames, 3, height, width))
    return counter.get_total_flops()


def table(names: Sequence[str], clip_size: tuple[int, int, int]) -> Table:
    """One row per backbone; one that cannot be built for such clips shows why."""
    frames, height, width = clip_size
    rows = Table(title=f"Backbones, one clip of {frames} frames of {height}x{width}", box=box.SIMPLE_HEAD)
    rows.add_column(HEADINGS[0], no_wrap=True)
    for heading in HEADINGS[1:-1]:
        rows.add_column(heading, justify="right")
    rows.add_column(HEADINGS[-1])
    for name in names:
        rows.add_row(*_cells(name, clip_size))
    return rows


def markdown_table(names: Sequence[str], clip_size: tuple[int, int, int]) -> str:
    """The same as a document holds it."""
    rows = [HEADINGS, *((f"`{name}`", *_cells(name, clip_size)[1:]) for name in names)]
    heading, *lines = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([heading, "|---" * len(HEADINGS) + "|", *lines])


def _cells(name: str, clip_size: tuple[int, int, int]) -> tuple[str, ...]:
    try:
        found = summarise(name, clip_size)
    except BackboneError as error:
        return name, "–", "–", "–", str(error)
    work = f"{found.parameters / 1e6:.1f}", f"{found.flops / 1e9:.1f}"
    return name, str(found.feature_size), *work, ", ".join(found.weights)


def main(arguments: Sequence[str]) -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser("python -m video_backbones.summary", description=__doc__.split("\n")[0])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="backbones, also timm/NAME and csci_video/NAME. Default: all but timm's",
    )
    parser.add_argument(
        "--clip",
        nargs=3,
        type=int,
        default=(8, 256, 128),
        metavar=("T", "H", "W"),
        help="frames, height and width. Default: 8 256 128",
    )
    parser.add_argument("--markdown", action="store_true", help="the table as documents hold it")
    given = parser.parse_args(arguments)
    frames, height, width = given.clip
    if min(frames, height, width) < 1:
        parser.error(f"--clip {frames} {height} {width}: expected numbers above 0")
    names, clip_size = given.names or [*backbone_names(), *csci_names()], (frames, height, width)
    if given.markdown:
        print(markdown_table(names, clip_size))
    else:
        Console(width=140).print(table(names, clip_size))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
