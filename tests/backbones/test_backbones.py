"""Every backbone: shapes, and which changes of a clip may change its feature."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from video_backbones import SpatialPoolName, TemporalPoolName, backbone_names
from video_backbones.factory import build_backbone

NAMES = backbone_names()
RESNETS = [name for name in NAMES if name not in ("s3d", "swin3d_t", "mvit_v2_s")]
SMALL = ("c2d_resnet18_slim", "r3d_18")


def clips(batch: int, frames: int, height: int = 64, width: int = 32) -> torch.Tensor:
    return torch.randn(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_frames_of_any_size_gives_one_finite_feature(name: str) -> None:
    backbone = build_backbone(name, weights="random").eval()
    for frames, height, width in ((1, 64, 32), (2, 64, 32), (5, 64, 32), (3, 48, 112), (2, 72, 40), (1, 16, 16)):
        with torch.inference_mode():
            feature = backbone(clips(2, frames, height, width))
        assert feature.shape == (2, backbone.feature_size)
        assert feature.isfinite().all()
        assert feature.std() > 0


@pytest.mark.parametrize("name", RESNETS)
def test_last_stride_halves_the_last_map(name: str) -> None:
    with torch.inference_mode():
        dense, coarse = (
            build_backbone(name, weights="random", last_stride=stride).eval().feature_maps(clips(1, 8))
            for stride in (1, 2)
        )
    assert dense.shape[:3] == coarse.shape[:3]
    assert dense.shape[3:] == (2 * coarse.shape[3], 2 * coarse.shape[4])


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    backbone = build_backbone(name, weights="random")
    feature = backbone(clips(4, 2))
    torch.autograd.backward((feature * torch.randn_like(feature)).sum())
    silent = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("name", SMALL)
def test_clips_do_not_see_each_other_in_evaluation(name: str) -> None:
    backbone = build_backbone(name, weights="random").double().eval()
    both = clips(2, 4).double()
    with torch.inference_mode():
        torch.testing.assert_close(backbone(both)[1:], backbone(both[1:]), rtol=1e-10, atol=1e-10)


def test_the_order_of_frames_matters_to_3d_convolutions_alone() -> None:
    frames = clips(1, 4).double()
    with torch.inference_mode():
        for name, matters in (("c2d_resnet18_slim", False), ("r3d_18", True)):
            backbone = build_backbone(name, weights="random").double().eval()
            same = torch.allclose(backbone(frames), backbone(frames.flip(1)), rtol=1e-9)
            assert same != matters, name


@pytest.mark.parametrize("name", SMALL)
def test_autocast_stays_near_float32_and_ends_in_float32(name: str) -> None:
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


@pytest.mark.parametrize("spatial_pool", get_args(SpatialPoolName))
@pytest.mark.parametrize("temporal_pool", get_args(TemporalPoolName))
def test_every_pool_fits_a_backbone_and_is_trained(
    spatial_pool: SpatialPoolName, temporal_pool: TemporalPoolName
) -> None:
    backbone = build_backbone(
        "c2d_resnet18_slim", weights="random", spatial_pool=spatial_pool, temporal_pool=temporal_pool
    )
    with torch.autocast("cpu", torch.bfloat16):
        feature = backbone(clips(4, 3))
    assert feature.shape == (4, 512 if spatial_pool == "max_avg" else 256)
    assert feature.dtype == torch.float32
    torch.autograd.backward((feature * torch.randn_like(feature)).sum())
    learned = {name: p for name, p in backbone.named_parameters() if "pool" in name}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned.values())
    moving = {name for name, p in learned.items() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moving >= {name for name in learned if name.endswith((".p", "score.weight"))}
