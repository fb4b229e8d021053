"""Every backbone: shapes, the reference features, and what a clip's parts may and may not change."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from tests.backbones.reference_values import REFERENCE, fill, reference_input
from video_backbones import BackboneName, build_backbone
from video_backbones.pooling import SpatialMaxPool, TemporalMeanPool

NAMES: tuple[BackboneName, ...] = get_args(BackboneName)
SMALL: tuple[BackboneName, ...] = ("c2d_resnet18_slim", "r3d_18")


def clips(batch: int, frames: int) -> torch.Tensor:
    return torch.randn(batch, frames, 3, 64, 32, generator=torch.Generator().manual_seed(frames))


def test_c2d_resnet50_equals_the_released_backbone() -> None:
    backbone = build_backbone("c2d_resnet50", weights="random").double().eval()
    fill(backbone)
    expected = np.load(REFERENCE / "c2d_features.npz")["c2dres50"]
    with torch.inference_mode():
        feature = backbone(reference_input("clip", (2, 3, 8, 64, 32))).numpy()
    assert np.abs(feature - expected).max() < 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(feature, expected, rtol=1e-6)


def test_c2d_resnet50_has_the_released_names() -> None:
    state = build_backbone("c2d_resnet50", weights="random").state_dict()
    assert len(state) == 323
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    assert state["layer4.2.bn3.running_var"].shape == (2048,)
    assert list(state)[:2] == ["bn.weight", "bn.bias"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_any_number_of_frames_gives_one_finite_feature(name: BackboneName, frames: int) -> None:
    backbone = build_backbone(name, weights="random").eval()
    with torch.inference_mode():
        feature = backbone(clips(2, frames))
    assert feature.shape == (2, backbone.feature_size)
    assert feature.isfinite().all()
    assert feature.std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_last_stride_halves_the_last_map(name: BackboneName) -> None:
    with torch.inference_mode():
        dense, coarse = (
            build_backbone(name, weights="random", last_stride=stride).eval().feature_maps(clips(1, 8))
            for stride in (1, 2)
        )
    assert dense.shape[:3] == coarse.shape[:3]
    assert dense.shape[3:] == (2 * coarse.shape[3], 2 * coarse.shape[4])


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name: BackboneName) -> None:
    backbone = build_backbone(name, weights="random")
    feature = backbone(clips(4, 2))
    torch.autograd.backward((feature * torch.randn_like(feature)).sum())
    silent = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("name", SMALL)
def test_clips_do_not_see_each_other_in_evaluation(name: BackboneName) -> None:
    backbone = build_backbone(name, weights="random").double().eval()
    both = clips(2, 4).double()
    with torch.inference_mode():
        torch.testing.assert_close(backbone(both)[1:], backbone(both[1:]), rtol=1e-10, atol=1e-10)


def test_the_order_of_frames_matters_to_3d_convolutions_alone() -> None:
    frames = clips(1, 4).double()
    with torch.inference_mode():
        for name, matters in (("c2d_resnet18_slim", False), ("r3d_18", True)):
            backbone = build_backbone(name, weights="random").double().eval()  # type: ignore[arg-type]
            same = torch.allclose(backbone(frames), backbone(frames.flip(1)), rtol=1e-9)
            assert same != matters, name


@pytest.mark.parametrize("name", SMALL)
def test_autocast_stays_near_float32_and_ends_in_float32(name: BackboneName) -> None:
    backbone = build_backbone(name, weights="random").eval()
    with torch.inference_mode():
        exact = backbone(clips(2, 4))
        with torch.autocast("cpu", torch.bfloat16):
            rough = backbone(clips(2, 4))
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.05 * exact.norm()


def test_3d_convolutions_stay_in_float32_on_a_cpu() -> None:
    backbone = build_backbone("r3d_18", weights="random").eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        maps = backbone.feature_maps(clips(2, 2))
    assert maps.dtype == torch.float32


def test_convolutions_are_channels_last() -> None:
    backbone = build_backbone("c2d_resnet18_slim", weights="random")
    weights = [m.weight for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert len(weights) == 20
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_pools_equal_naive_loops() -> None:
    maps = torch.randn(2, 3, 5, 4, 2)
    pooled = SpatialMaxPool()(maps)
    mean = TemporalMeanPool()(pooled)
    for b in range(2):
        for d in range(5):
            largest = [max(maps[b, t, d].flatten().tolist()) for t in range(3)]
            assert pooled[b, :, d].tolist() == largest
            assert mean[b, d].item() == pytest.approx(sum(largest) / 3, rel=1e-6)
