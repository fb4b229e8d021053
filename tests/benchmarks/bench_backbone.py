"""C2D-ResNet-50, forward + backward: folded to 2-D convolutions against the same network of 1 x k x k Conv3d.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_backbone [--rounds 5] [--clips 4]

The targets are for 4 clips of 8 x 256 x 128 on two cores; the one for bf16 needs a CPU that computes in it.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from video_backbones.c2d import C2DResNet
from video_backbones.factory import build_backbone


class Conv3dResNet(nn.Module):
    """The folded network's twin, written the straightforward way: every layer over (B, C, T, H, W)."""

    def __init__(self, folded: C2DResNet) -> None:
        super().__init__()
        network = to_3d(deepcopy(folded))
        self.trunk = nn.Sequential(
            *(
                network.get_submodule(name)
                for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
            )
        )
        self.bn = network.get_submodule("bn")

    def forward(self, frames_BTCHW: Tensor) -> Tensor:
        maps_BDTHW = self.trunk(frames_BTCHW.transpose(1, 2).contiguous())
        pooled_BDT11 = nn.functional.max_pool3d(maps_BDTHW, (1, *maps_BDTHW.shape[3:]))
        feature_BD: Tensor = self.bn(pooled_BDT11.mean(dim=2).flatten(1))
        return feature_BD


def to_3d(module: nn.Module) -> nn.Module:
    """Replace 2-D layers by their 3-D form with a temporal extent of 1."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            new: nn.Module = nn.Conv3d(
                child.in_channels,
                child.out_channels,
                kernel_size=(1, child.kernel_size[0], child.kernel_size[1]),
                stride=(1, child.stride[0], child.stride[1]),
                padding=(0, int(child.padding[0]), int(child.padding[1])),
                bias=child.bias is not None,
            )
            state = {name: x.unsqueeze(2) if x.ndim == 4 else x for name, x in child.state_dict().items()}
            new.load_state_dict(state)
        elif isinstance(child, nn.BatchNorm2d):
            new = nn.BatchNorm3d(child.num_features)
            new.load_state_dict(child.state_dict())
        elif isinstance(child, nn.MaxPool2d):
            new = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        else:
            new = to_3d(child)
        setattr(module, name, new)
    return module


def compare(clips: int, rounds: int) -> dict[str, float]:
    """Median seconds of a forward + backward for each, measured alternately in rounds."""
    torch.manual_seed(0)
    folded = build_backbone("c2d_resnet50", weights="random")
    assert isinstance(folded, C2DResNet)
    conv3d = Conv3dResNet(folded)
    frames = torch.randn(clips, 8, 3, 256, 128)
    steps: dict[str, Callable[[], None]] = {
        "Conv3d 1 x k x k, float32": lambda: _step(conv3d, frames, bf16=False),
        "folded, float32": lambda: _step(folded, frames, bf16=False),
        "folded, bf16 autocast": lambda: _step(folded, frames, bf16=True),
    }
    _report_agreement(conv3d, folded, frames)
    for step in steps.values():  # warm-up: kernels are chosen, memory is allocated
        step()
    return median_seconds(steps, rounds)


def median_seconds(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each step, measured alternately in rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _step(network: nn.Module, frames: Tensor, *, bf16: bool) -> None:
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        feature: Tensor = network(frames)
    torch.autograd.backward(feature.square().mean())


def _report_agreement(conv3d: nn.Module, folded: nn.Module, frames: Tensor) -> None:
    """In evaluation mode: in training mode the neck divides by the spread of four clips and amplifies rounding."""
    conv3d.eval(), folded.eval()
    with torch.inference_mode():
        exact, float32 = conv3d(frames), folded(frames)
        with torch.autocast("cpu", torch.bfloat16):
            bf16 = folded(frames)
    error, rough = (((other - exact).norm() / exact.norm()).item() for other in (float32, bf16))
    print(f"features against Conv3d, relative: float32 {error:.1e}, bf16 {rough:.1e}")
    assert error < 1e-5, "the two networks do not compute the same"
    conv3d.train(), folded.train()


def describe_machine() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    bf16 = any("avx512_bf16" in line or "amx_bf16" in line for line in lines)
    return (
        f"{model}, {os.cpu_count()} cores, bf16 instructions: {'yes' if bf16 else 'no'}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} before"
    )


def read_arguments(description: str | None) -> argparse.Namespace:
    """``clips`` and ``rounds``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4, help="clips of 8 x 256 x 128 in the batch")
    parser.add_argument("--rounds", type=int, default=5, help="measured runs of each")
    return parser.parse_args()


def main() -> None:
    """Print the machine and a table of ratios."""
    arguments = read_arguments(__doc__)
    print(describe_machine())
    medians = compare(arguments.clips, arguments.rounds)
    baseline, *_ = medians.values()
    targets = ("", "1.6x", "3.0x")
    print(f"\n{'forward + backward':<28}{'median s':>10}{'ratio':>8}{'target':>8}")
    for (name, seconds), target in zip(medians.items(), targets, strict=True):
        print(f"{name:<28}{seconds:>10.2f}{baseline / seconds:>7.2f}x{target:>8}")


if __name__ == "__main__":
    main()
