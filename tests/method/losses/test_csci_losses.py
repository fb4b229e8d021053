"""CSCI's losses: the released values and gradients, naive loops, degenerate inputs, precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ccvid.config import MethodOptions
from ccvid.losses.colour import colour_loss
from ccvid.losses.disentangling import disentangling_loss
from ccvid.losses.identity import identity_loss
from ccvid.losses.motion import motion_loss
from ccvid.losses.soft_triplet import soft_triplet_loss
from ccvid.training.build import pair_term_of

REFERENCE = dict(np.load(Path(__file__).parents[1] / "reference" / "csci_losses.npz"))
PERSON_B = torch.from_numpy(REFERENCE["pids"])


def image_total(logits_BP: Tensor, feature_BD: Tensor) -> Tensor:
    return identity_loss(logits_BP, PERSON_B) + soft_triplet_loss(feature_BD, PERSON_B)


RELEASED: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "identity": (lambda logits_BP: identity_loss(logits_BP, PERSON_B), ("logits",)),
    "identity_smooth0.1": (lambda logits_BP: identity_loss(logits_BP, PERSON_B, label_smoothing=0.1), ("logits",)),
    "triplet_soft": (lambda feature_BD: soft_triplet_loss(feature_BD, PERSON_B), ("features",)),
    "colour": (lambda output_BE: colour_loss(output_BE, array("colour_target")), ("colour_output",)),
    "disentangle": (disentangling_loss, ("colour_features", "features")),
    "motion": (motion_loss, ("frames",)),
    "image_total": (image_total, ("logits", "features")),
    "video_total": (
        lambda logits, x, frames: image_total(logits, x) + motion_loss(frames),
        ("logits", "features", "frames"),
    ),
}


def array(name: str) -> Tensor:
    return torch.from_numpy(REFERENCE[name])


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", RELEASED)
def test_values_and_gradients_equal_the_released_ones(name: str) -> None:
    loss, sources = RELEASED[name]
    given_ = [array(source).requires_grad_() for source in sources]
    value = loss(*given_)
    np.testing.assert_allclose(value.item(), REFERENCE[f"{name}.loss"], rtol=1e-9)
    for place, gradient in enumerate(torch.autograd.grad(value, given_), start=1):
        expected = REFERENCE[f"{name}.grad{place if place > 1 else ''}"]
        np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_no_released_loss_is_left_out() -> None:
    names = {name.removesuffix(".loss") for name in REFERENCE if name.endswith(".loss")}
    assert names - set(RELEASED) == {"triplet_m0.3"}  # on Euclidean distances with a fixed margin: never used


def naive_soft_triplet(feature_BD: Tensor, persons: list[int]) -> float:
    rows = feature_BD.tolist()
    total = 0.0
    for i, person in enumerate(persons):
        distance = [max(1e-6, math.dist(rows[i], row)) for row in rows]
        positive = max(d for d, other in zip(distance, persons, strict=True) if other == person)
        negatives = [d for d, other in zip(distance, persons, strict=True) if other != person]
        total += np.logaddexp(0, positive - min(negatives)) if negatives else 0.0
    return total / len(persons)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, list[int]]:
    """Any number of samples of each person, in any order; coarse values, so that many are equal, zero or tied."""
    persons = draw(st.lists(st.integers(0, 3), min_size=1, max_size=9))
    value = st.sampled_from([0.0, 0.0, 1.0, -1.0, 1.0 + 1e-9, 3e4, 1e-8])
    rows = draw(st.lists(st.lists(value, min_size=3, max_size=3), min_size=len(persons), max_size=len(persons)))
    return torch.tensor(rows, dtype=torch.float64), persons


@given(batches())
def test_soft_triplets_equal_a_naive_double_loop(batch: tuple[Tensor, list[int]]) -> None:
    feature_BD, persons = batch
    feature_BD.requires_grad_()
    loss = soft_triplet_loss(feature_BD, torch.tensor(persons))
    assert loss.item() == pytest.approx(
        naive_soft_triplet(feature_BD, persons), rel=1e-9, abs=1e-15
    )  # of distances of 1e4
    (gradient,) = torch.autograd.grad(loss, feature_BD)
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= 4  # each distance pulls at two samples with at most 1


def test_uneven_persons_keep_their_own_distances() -> None:
    """Where the release reshapes by the number of positives of the first sample."""
    persons = [0, 1, 1, 0, 2, 2, 2, 1, 2, 3]
    feature_BD = random(10, 5)
    found = soft_triplet_loss(feature_BD, torch.tensor(persons)).item()
    assert found == pytest.approx(naive_soft_triplet(feature_BD, persons), rel=1e-12)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    shuffled = soft_triplet_loss(feature_BD[order], torch.tensor(persons)[order]).item()
    assert found == pytest.approx(shuffled, rel=1e-12)


def test_a_batch_of_one_person_teaches_nothing() -> None:
    feature_BD = random(4, 6).requires_grad_()
    loss = soft_triplet_loss(feature_BD, torch.zeros(4, dtype=torch.int64))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, feature_BD)[0].abs().max() == 0


def test_close_triplets_of_long_features_keep_their_digits() -> None:
    """Distances of 1e-3 between features of length 1e4, in float32: products of features would lose them."""
    feature_BD = torch.tensor([[1e4, 0, 0], [1e4, 1e-3, 0], [1e4, 0, 2e-3], [1e4, 0, 4e-3]])
    persons = [0, 0, 1, 1]
    found = soft_triplet_loss(feature_BD, torch.tensor(persons)).item()
    assert found == pytest.approx(naive_soft_triplet(feature_BD, persons), rel=1e-6)


def test_soft_triplets_are_a_pair_loss_of_the_recipe() -> None:
    term = pair_term_of(MethodOptions(pair_loss="soft_triplet"), 1)
    assert term is not None
    assert term(array("features"), PERSON_B).item() == pytest.approx(REFERENCE["triplet_soft.loss"], rel=1e-12)


def test_motion_by_hand() -> None:
    """Frames 0, 1, 4 of one value: changes 1, 4, 3 by halves, variance 13/3."""
    frame_BTD = torch.tensor([[[0.0], [1.0], [4.0]]], dtype=torch.float64)
    assert motion_loss(frame_BTD).item() == pytest.approx(1 / (1 + 8 / 3 / 2 + 13 / 3), rel=1e-12)


def test_motion_of_frames_that_are_all_alike_is_one() -> None:
    frame_BTD = random(2, 1, 5).expand(2, 4, 5).clone().requires_grad_()
    loss = motion_loss(frame_BTD)
    assert loss.item() == 1
    assert torch.autograd.grad(loss, frame_BTD)[0].isfinite().all()


def test_a_single_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r"clips of 2 or more frames, got frame_BTD.shape = torch.Size\(\[3, 1, 5\]\)"):
        motion_loss(random(3, 1, 5))


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-12, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_of_any_length(length: float, dtype: torch.dtype) -> None:
    """The cosine does not depend on length; zeros have none, teach nothing and disturb no other sample."""
    one_BD, two_BD = random(4, 6, dtype=dtype), random(4, 6, seed=1, dtype=dtype)
    scaled_BD = (one_BD * torch.tensor([1.0, length, 1.0, 1.0], dtype=dtype)[:, None]).requires_grad_()
    two_BD.requires_grad_()
    cosine_B = torch.cosine_similarity(one_BD, two_BD)
    known = bool(scaled_BD.square().sum(dim=1)[1] > 0)
    for loss, expected_B, unknown in (
        (colour_loss, 2 - 2 * cosine_B, 1.0),
        (disentangling_loss, cosine_B.abs(), 0.0),
    ):
        value = loss(scaled_BD, two_BD)
        gradients = torch.autograd.grad(value, (scaled_BD, two_BD))
        expected_B = expected_B.detach().clone()
        expected_B[1] = expected_B[1] if known else unknown
        torch.testing.assert_close(value, expected_B.mean())
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert bool(gradients[0][1].any()) == known
        assert known or gradients[1][1].abs().max() < 1e-7


def test_opposite_and_equal_vectors() -> None:
    vector_BD = random(5, 8)
    assert colour_loss(3 * vector_BD, vector_BD).item() == pytest.approx(0, abs=1e-30)
    assert colour_loss(-vector_BD, 2 * vector_BD).item() == pytest.approx(4, rel=1e-12)
    assert disentangling_loss(-vector_BD, vector_BD).item() == pytest.approx(1, rel=1e-12)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "triplet": lambda x: soft_triplet_loss(x, torch.arange(8) // 2),
    "colour": lambda x: colour_loss(x, x.flip(0)),
    "disentangling": lambda x: disentangling_loss(x, x.flip(0)),
    "motion": lambda x: motion_loss(x.view(2, 4, -1)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_bf16_is_computed_in_float32(name: str) -> None:
    feature_BD = random(8, 32).bfloat16()
    expected = LOSSES[name](feature_BD.double())
    feature_BD.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = LOSSES[name](feature_BD)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(value, feature_BD)
    assert (gradient.dtype, bool(gradient.isfinite().all())) == (torch.bfloat16, True)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name: str) -> None:
    feature_BD = random(8, 5, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(LOSSES[name], (feature_BD,))
