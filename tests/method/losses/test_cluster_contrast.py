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


def test_a_clip_is_not_pushed_away_from_its_nearest_others() -> None:
    """Of 31 centroids, of which one is of no camera; a tenth of 30 is the most that is spared."""
    cosine_M = torch.linspace(-0.9, 0.9, 31)[torch.randperm(31, generator=torch.Generator().manual_seed(1))]
    cosine_BM, camera_M = cosine_M[None].requires_grad_(), torch.zeros(31, dtype=torch.int64)
    camera_M[cosine_M.argmax()] = -1
    own = int((cosine_M - 0.2).abs().argmin())
    own_BM = torch.zeros(1, 31, dtype=torch.bool)
    own_BM[0, own] = True
    nearest = [m for m in cosine_M.argsort(descending=True).tolist() if m != own and camera_M[m] == 0]
    for spared, left_out in ((0, 0), (1, 1), (2, 2), (3, 3), (9, 3), (99, 3)):
        loss = cluster_contrast_loss(cosine_BM, own_BM, camera_M, 1, temperature=0.1, spared=spared)
        compared = [own, *nearest[left_out:]]
        torch.testing.assert_close(loss, cross_entropy(cosine_BM[:, compared] / 0.1, torch.tensor([0])))
        (gradient,) = torch.autograd.grad(loss, cosine_BM)
        assert set(torch.nonzero(gradient[0]).flatten().tolist()) == set(compared)


def test_fewer_than_ten_centroids_spare_none() -> None:
    cosine_BM, own_BM = torch.linspace(0.9, -0.9, 9)[None], torch.arange(9)[None] == 4
    arguments = cosine_BM, own_BM, torch.zeros(9, dtype=torch.int64), 1
    losses = [cluster_contrast_loss(*arguments, temperature=0.1, spared=spared) for spared in (0, 12)]
    assert losses[0] == losses[1] > 1


def test_a_camera_all_of_whose_others_are_spared_adds_nothing() -> None:
    """One camera with the clip's own centroid and its nearest other, one with 18 others far away."""
    cosine_BM = torch.cat([torch.tensor([0.5, 0.8]), torch.full((18,), -0.5)])[None].requires_grad_()
    own_BM = torch.arange(20)[None] == 0
    loss = cluster_contrast_loss(cosine_BM, own_BM, (torch.arange(20) > 1).long(), 2, temperature=0.1, spared=1)
    assert loss.item() == pytest.approx(0)
    (gradient,) = torch.autograd.grad(loss, cosine_BM)
    assert torch.equal(gradient, torch.zeros(1, 20))


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
