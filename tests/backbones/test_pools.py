"""Pools against naive loops, and their initial behaviour."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from video_backbones.pooling import (
    SpatialGemPool,
    SpatialMaxMeanPool,
    SpatialMaxPool,
    SpatialMeanPool,
    TemporalAttentionPool,
    TemporalGemPool,
    TemporalMeanPool,
)

MAPS = torch.randn(2, 3, 5, 4, 2, generator=torch.Generator().manual_seed(0)).double()


def generalised_mean(values: list[float], p: float) -> float:
    kept = [max(value, 1e-6) ** p for value in values]
    return math.exp(math.log(sum(kept) / len(kept)) / p)


def test_spatial_pools_equal_naive_loops() -> None:
    gem = SpatialGemPool().double()
    gem.p.data.fill_(2.5)
    largest, mean, both, root = (
        pool(MAPS) for pool in (SpatialMaxPool(), SpatialMeanPool(), SpatialMaxMeanPool(), gem)
    )
    for b in range(2):
        for t in range(3):
            for d in range(5):
                values = MAPS[b, t, d].flatten().tolist()
                assert largest[b, t, d].item() == both[b, t, d].item() == max(values)
                assert mean[b, t, d].item() == both[b, t, 5 + d].item() == pytest.approx(sum(values) / 8, abs=1e-12)
                assert root[b, t, d].item() == pytest.approx(generalised_mean(values, 2.5), rel=1e-9)
    assert both.shape == (2, 3, 10)


def test_temporal_pools_equal_naive_loops() -> None:
    pooled_BTD = MAPS.amax(dim=(-2, -1))
    gem, attention = TemporalGemPool().double(), TemporalAttentionPool(5).double()
    torch.nn.init.normal_(attention.score.weight)
    mean_BD, gem_BD, attention_BD = TemporalMeanPool()(pooled_BTD), gem(pooled_BTD), attention(pooled_BTD)
    for b in range(2):
        scores = [
            sum(
                v * math.tanh(sum(w * x for w, x in zip(row, frame, strict=True)) + bias)
                for v, row, bias in zip(
                    attention.score.weight[0].tolist(),
                    attention.hidden.weight.tolist(),
                    attention.hidden.bias.tolist(),
                    strict=True,
                )
            )
            for frame in pooled_BTD[b].tolist()
        ]
        weights = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
        for d in range(5):
            values = pooled_BTD[b, :, d].tolist()
            assert mean_BD[b, d].item() == pytest.approx(sum(values) / 3)
            assert gem_BD[b, d].item() == pytest.approx(generalised_mean(values, 3))
            expected = sum(w * x for w, x in zip(weights, values, strict=True))
            assert attention_BD[b, d].item() == pytest.approx(expected)


def test_attention_begins_as_the_mean_and_learns_which_frames_tell() -> None:
    pooled_BTD = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(1))
    pool = TemporalAttentionPool(6)
    torch.testing.assert_close(pool(pooled_BTD), TemporalMeanPool()(pooled_BTD))
    marked = pooled_BTD.clone()
    marked[:, :, 0] = torch.tensor([0.0, 0.0, 5.0, 0.0])  # marks which frame is the good one
    target_BD = marked[:, 2]
    optimizer = torch.optim.Adam(pool.parameters(), 0.05)
    for _ in range(50):
        optimizer.zero_grad()
        loss: Tensor = (pool(marked) - target_BD).square().mean()
        torch.autograd.backward(loss)
        optimizer.step()
    assert (pool(marked) - target_BD).abs().max() < 0.2 * (marked.mean(1) - target_BD).abs().max()


def test_generalised_means_lie_between_the_mean_and_the_largest() -> None:
    maps = MAPS.abs()
    mean, largest, pool = SpatialMeanPool()(maps), SpatialMaxPool()(maps), SpatialGemPool().double()
    assert pool.p.shape == (1,)
    assert pool.p.item() == 3
    pool.p.data.fill_(1)
    torch.testing.assert_close(pool(maps), mean)
    pool.p.data.fill_(200)
    torch.testing.assert_close(pool(maps), largest, rtol=0.02, atol=0)


def test_an_empty_map_has_finite_gradients() -> None:
    for pool, zeros in ((SpatialGemPool(), torch.zeros(1, 2, 3, 4, 5)), (TemporalGemPool(), torch.zeros(1, 2, 3))):
        zeros.requires_grad_()
        torch.autograd.backward(pool(zeros).sum())
        assert zeros.grad is not None
        assert zeros.grad.isfinite().all()
        assert pool.p.grad is not None
        assert pool.p.grad.isfinite().all()


@pytest.mark.parametrize("pool", [SpatialMaxPool(), SpatialMeanPool(), SpatialMaxMeanPool(), SpatialGemPool()])
def test_half_precision_maps_are_pooled_in_float32(pool: torch.nn.Module) -> None:
    rough = MAPS.abs().to(torch.bfloat16)
    pooled = pool(rough)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, pool(rough.float()))
