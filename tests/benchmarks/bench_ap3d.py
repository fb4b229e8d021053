"""AP3D-ResNet-50 with non-local blocks, forward: this network against the same one of 5-D convolutions throughout.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.bench_ap3d [--clips 4] [--rounds 5]

The other is written the straightforward way: every layer over (B, C, T, H, W), the sequence of 3 T frames built by
concatenation, affinities by einsum, both neighbours of every frame computed, zero frames beyond the ends included.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool3d, normalize

from tests.benchmarks.bench_backbone import describe_machine, median_seconds, read_arguments, to_3d
from video_backbones.appearance_preserving import TEMPERATURE, AppearancePreservingConvolution
from video_backbones.clip_blocks import ClipBottleneck
from video_backbones.factory import build_backbone
from video_backbones.non_local import NonLocalBlock
from video_backbones.temporal_resnet import TemporalResNet50


class Conv3dAppearancePreserving(nn.Module):
    """APM and AP3D's two convolutions over (B, C, T, H, W)."""

    def __init__(self, folded: AppearancePreservingConvolution) -> None:
        super().__init__()
        self.parts = cast(AppearancePreservingConvolution, to_3d(deepcopy(folded)))
        kernel = folded.temporal_conv3d.weight.detach()
        self.temporal = nn.Conv3d(kernel.shape[1], kernel.shape[0], (3, 1, 1), stride=(3, 1, 1), bias=False)
        self.temporal.load_state_dict({"weight": kernel})

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        y = self.parts.spatial_conv3d(x_BCTHW)
        zero = torch.zeros_like(y[:, :, :1])
        neighbours = (torch.cat((zero, y[:, :, :-1]), dim=2), torch.cat((y[:, :, 1:], zero), dim=2))
        previous, following = (self._reassembled(y, neighbour) for neighbour in neighbours)
        sequence_BCSHW = torch.stack((previous, y, following), dim=3).flatten(2, 3)
        output: Tensor = y + self.temporal(sequence_BCSHW)
        return output

    def _reassembled(self, x: Tensor, neighbour: Tensor) -> Tensor:
        module = self.parts.APM
        own, other = (normalize(module.semantic_mapping(maps).flatten(3), dim=1) for maps in (x, neighbour))
        weight = (TEMPERATURE * torch.einsum("bctp,bctq->btpq", own, other)).softmax(-1)
        laid = torch.einsum("btpq,bctq->bctp", weight, neighbour.flatten(3)).view_as(x)
        gate: Tensor = module.contrastive_att_net(module.x_mapping(x.detach()) * module.n_mapping(laid.detach()))
        return gate * laid


class Conv3dNonLocal(nn.Module):
    """A non-local block over (B, C, T, H, W)."""

    def __init__(self, folded: NonLocalBlock) -> None:
        super().__init__()
        self.parts = cast(NonLocalBlock, to_3d(deepcopy(folded)))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        theta = self.parts.theta(x_BCTHW).flatten(2)
        phi = max_pool3d(self.parts.phi(x_BCTHW), (1, 2, 2)).flatten(2)
        g = max_pool3d(self.parts.g(x_BCTHW), (1, 2, 2)).flatten(2)
        weight = torch.einsum("bcq,bck->bqk", theta, phi).softmax(-1)
        seen = torch.einsum("bqk,bck->bcq", weight, g).view(*theta.shape[:2], *x_BCTHW.shape[2:])
        output: Tensor = x_BCTHW + self.parts.W(seen)
        return output


class Conv3dBottleneck(nn.Module):
    """A bottleneck around `Conv3dAppearancePreserving`."""

    def __init__(self, folded: ClipBottleneck) -> None:
        super().__init__()
        around = deepcopy(folded)
        middle = around.conv2
        assert isinstance(middle, AppearancePreservingConvolution)
        self.conv2 = Conv3dAppearancePreserving(middle)
        around.conv2 = nn.Identity()  # type: ignore[assignment]
        self.around = cast(ClipBottleneck, to_3d(around))

    def forward(self, x: Tensor) -> Tensor:
        block = self.around
        y = block.relu(block.bn1(block.conv1(x)))
        y = block.bn3(block.conv3(block.relu(block.bn2(self.conv2(y)))))
        output: Tensor = block.relu(y + (x if block.downsample is None else block.downsample(x)))
        return output


class Conv3dNetwork(nn.Module):
    """The folded network's twin with the same weights."""

    def __init__(self, folded: TemporalResNet50) -> None:
        super().__init__()
        stages = (folded.layer1, folded.layer2, folded.layer3, folded.layer4)
        stem = (
            to_3d(nn.Sequential(deepcopy(folded.get_submodule(name)))) for name in ("conv1", "bn1", "relu", "maxpool")
        )
        self.trunk = nn.Sequential(*stem, *(_block_3d(block) for stage in stages for block in stage))
        self.bn = deepcopy(folded.bn)

    def forward(self, frames_BTCHW: Tensor) -> Tensor:
        maps_BDTHW = self.trunk(frames_BTCHW.transpose(1, 2).contiguous())
        feature_BD: Tensor = self.bn(maps_BDTHW.amax(dim=(3, 4)).mean(dim=2))
        return feature_BD


def _block_3d(block: nn.Module) -> nn.Module:
    if isinstance(block, ClipBottleneck):
        return Conv3dBottleneck(block)
    return Conv3dNonLocal(block) if isinstance(block, NonLocalBlock) else to_3d(deepcopy(block))


def _network() -> TemporalResNet50:
    """Random weights; what is initialised to zero (temporal kernels, the non-local blocks' BatchNorm) is drawn too."""
    torch.manual_seed(0)
    network = build_backbone("ap3d_nl_resnet50", weights="random").eval()
    assert isinstance(network, TemporalResNet50)
    for name, parameter in network.named_parameters():
        if "temporal_conv3d" in name or name.endswith("W.1.weight"):
            nn.init.normal_(parameter, std=0.02)
    return network


def compare(clips: int, rounds: int) -> dict[str, float]:
    """Median seconds of a forward for each, measured alternately in rounds."""
    folded = _network()
    conv3d = Conv3dNetwork(folded).eval()
    frames = torch.randn(clips, 8, 3, 256, 128)
    steps: dict[str, Callable[[], Tensor]] = {
        "Conv3d, float32": lambda: _forward(conv3d, frames, bf16=False),
        "folded, float32": lambda: _forward(folded, frames, bf16=False),
        "Conv3d, bf16 autocast": lambda: _forward(conv3d, frames, bf16=True),
        "folded, bf16 autocast": lambda: _forward(folded, frames, bf16=True),
    }
    exact, *others = (step() for step in steps.values())  # also the warm-up
    errors = [((other - exact).norm() / exact.norm()).item() for other in others]
    print("features against Conv3d in float32, relative: " + ", ".join(f"{error:.1e}" for error in errors))
    assert errors[0] < 1e-5, "the two networks do not compute the same"
    return median_seconds(steps, rounds)


@torch.inference_mode()
def _forward(network: nn.Module, frames: Tensor, *, bf16: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        feature: Tensor = network(frames)
    return feature


def main() -> None:
    """Print the machine and a table of ratios."""
    arguments = read_arguments(__doc__)
    print(describe_machine())
    medians = compare(arguments.clips, arguments.rounds)
    baseline, *_ = medians.values()
    print(f"\n{'forward':<28}{'median s':>10}{'ratio':>8}")
    for name, seconds in medians.items():
        print(f"{name:<28}{seconds:>10.2f}{baseline / seconds:>7.2f}x")


if __name__ == "__main__":
    main()
