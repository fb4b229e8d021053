"""Colour targets of a batch of pictures, against the published way: one picture, one plane at a time.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_colour_targets [--pictures 8] [--bins 64] [--rounds 5]

The other is the histogram block of HistoGAN, which CSCI uses, written anew without what CSCI switches off: each plane
computes two kernels of its own over all pixels.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from ccvid.colour_targets import DARKEST, FURTHEST, ColourTarget
from tests.benchmarks.bench_backbone import describe_machine, median_seconds

SIGMA = 0.02
SIZE = 224


def published_way(frames_BCHW: Tensor, bins: int) -> Tensor:
    """Targets of three planes, scaled by range, in float32: (B, 3 h^2)."""
    return torch.stack([_published_target(frame_CHW, bins) for frame_CHW in frames_BCHW.float() / 255])


def _published_target(picture_CHW: Tensor, bins: int) -> Tensor:
    log_CP = (picture_CHW.clamp(0, 1).flatten(1) + DARKEST).log()
    centre_h = torch.linspace(-FURTHEST, FURTHEST, bins)
    planes = []
    for one, first, second in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        u_Ph, v_Ph = ((log_CP[one] - log_CP[other])[:, None] - centre_h for other in (first, second))
        u_Ph, v_Ph = (1 / (1 + d_Ph.abs() ** 2 / SIGMA**2) for d_Ph in (u_Ph, v_Ph))
        planes.append(u_Ph.T @ v_Ph)
    target_E = torch.stack(planes).flatten()
    target_E = target_E / (target_E.sum() + 1e-6)
    return (target_E - target_E.min()) / (target_E.max() - target_E.min())


def main() -> None:
    """Print the machine, how far the targets are apart, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=8, help=f"pictures of {SIZE} x {SIZE} in the batch")
    parser.add_argument("--bins", type=int, default=64, help="bins along an axis")
    parser.add_argument("--rounds", type=int, default=5, help="measured runs of each")
    arguments = parser.parse_args()
    print(describe_machine())
    shape = (arguments.pictures, 3, SIZE, SIZE)
    frames_BCHW = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    target = ColourTarget("three", arguments.bins, SIGMA, range_scaled=True)
    apart = (target(frames_BCHW) - published_way(frames_BCHW, arguments.bins)).abs().max().item()  # also the warm-up
    print(f"{target.size} values in [0, 1], at most {apart:.1e} apart")
    steps = {
        "one picture at a time": lambda: published_way(frames_BCHW, arguments.bins),
        "the batch": lambda: target(frames_BCHW),
    }
    one, batch = median_seconds(steps, arguments.rounds).values()
    print(f"one picture at a time {1000 * one:.0f} ms, the batch {1000 * batch:.0f} ms: {one / batch:.2f}x")


if __name__ == "__main__":
    main()
