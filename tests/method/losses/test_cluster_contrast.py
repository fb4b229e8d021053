"""Cluster contrast: value and gradient against a reference written out in float64, and cosines of any size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from ccvid.losses.cluster_contrast import cluster_contrast_loss

CAMERA = (0, 1, 0, 1, 1, -1)
OWN = ((True, True, False, False, False, False), (False, False, False, True, False, False))


def written_out(cosine: list[list[float]], temperature: float) -> float:
    """One clip, one own centroid and one camera at a time."""
    clips = []
    for row, own in zip(cosine, OWN, strict=True):
        losses = []
        for m, is_own in enumerate(own):
            if is_own:
                rivals = [math.exp(row[n] / temperature) for n in range(len(row)) if CAMERA[n] == CAMERA[m]]
                losses.append(-math.log(math.exp(row[m] / temperature) / sum(rivals)))
        clips.append(sum(losses) / len(losses))
    return sum(clips) / len(clips)


def cosines() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (2, 6)))


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_value_and_gradient_equal_a_written_out_reference(temperature: float) -> None:
    cosine_BM = cosines().requires_grad_()
    arguments = torch.tensor(OWN), torch.tensor(CAMERA), 2
    loss = cluster_contrast_loss(cosine_BM, *arguments, temperature=temperature)
    assert loss.item() == pytest.approx(written_out(cosine_BM.tolist(), temperature), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, cosine_BM)
    for place in np.ndindex(2, 6):
        values = []
        for step in (1e-6, -1e-6):
            moved = cosines()
            moved[place] += step
            values.append(written_out(moved.tolist(), temperature))
        assert gradient[place].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_with_one_camera_it_is_cross_entropy_over_the_centroids() -> None:
    cosine_BM, own_BM = cosines(), torch.eye(6, dtype=torch.bool)[[4, 1]]
    loss = cluster_contrast_loss(cosine_BM, own_BM, torch.zeros(6, dtype=torch.int64), 1, temperature=0.1)
    torch.testing.assert_close(loss, cross_entropy(cosine_BM / 0.1, torch.tensor([4, 1])))


def test_small_temperatures_neither_overflow_nor_vanish() -> None:
    """A camera whose centroids are all opposite, whose exponentials are 0 beside those of the other."""
    cosine_BM = torch.tensor([[1.0, -1.0, 0.9, -0.99]], requires_grad=True)
    own_BM = torch.tensor([[True, True, False, False]])
    loss = cluster_contrast_loss(cosine_BM, own_BM, torch.tensor([0, 1, 0, 1]), 2, temperature=0.005)
    expected = (math.log1p(math.exp(-20)) + math.log1p(math.exp(2))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, cosine_BM)
    assert gradient.isfinite().all()
    assert gradient[0, 1] < -1
