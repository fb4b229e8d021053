"""The clothes-based adversarial loss: a naive loop, and edge cases."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccvid.losses.clothes_adversarial import clothes_adversarial_loss
from ccvid.losses.cosface import cosface_loss


def naive_cal(
    cosine: list[list[float]], clothes: list[int], owner: list[int], *, epsilon: float, scale: float
) -> float:
    """The formula, one exponential at a time."""
    total = 0.0
    for row, worn in zip(cosine, clothes, strict=True):
        positives = [c for c, person in enumerate(owner) if person == owner[worn]]
        negatives = sum(math.exp(scale * row[c]) for c in range(len(owner)) if c not in positives)
        for c in positives:
            weight = epsilon / len(positives) + (1 - epsilon if c == worn else 0)
            share = math.exp(scale * row[c])
            total -= weight * math.log(share / (share + negatives))
    return total / len(clothes)


@st.composite
def cal_problems(draw: st.DrawFn) -> tuple[list[list[float]], list[int], list[int]]:
    owner = draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))
    batch = draw(st.integers(1, 4))
    rows = st.lists(st.floats(-1, 1), min_size=len(owner), max_size=len(owner))
    cosine = draw(st.lists(rows, min_size=batch, max_size=batch))
    clothes = draw(st.lists(st.integers(0, len(owner) - 1), min_size=batch, max_size=batch))
    return cosine, clothes, owner


@given(problem=cal_problems(), epsilon=st.floats(0, 1), scale=st.floats(0.5, 20))
@settings(max_examples=200, deadline=None)
def test_cal_equals_a_naive_loop(
    problem: tuple[list[list[float]], list[int], list[int]], epsilon: float, scale: float
) -> None:
    cosine, clothes, owner = problem
    cosine_BC = torch.tensor(cosine, dtype=torch.float64, requires_grad=True)
    owner_C, clothes_B = torch.tensor(owner), torch.tensor(clothes)
    same_person = owner_C[clothes_B][:, None] == owner_C
    loss = clothes_adversarial_loss(cosine_BC, clothes_B, same_person, epsilon=epsilon, scale=scale)
    expected = naive_cal(cosine, clothes, owner, epsilon=epsilon, scale=scale)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, cosine_BC)
    assert gradient.isfinite().all()


def test_cal_with_one_outfit_each_is_cross_entropy() -> None:
    cosine = torch.rand(6, 4, dtype=torch.float64) * 2 - 1
    clothes = torch.tensor([0, 1, 2, 3, 0, 1])
    own = torch.nn.functional.one_hot(clothes, 4).bool()
    for epsilon in (0.0, 0.1, 1.0):
        loss = clothes_adversarial_loss(cosine, clothes, own, epsilon=epsilon)
        torch.testing.assert_close(loss, cosface_loss(cosine, clothes, scale=16.0))


def test_cal_without_any_other_person_is_zero_with_a_finite_gradient() -> None:
    cosine = torch.tensor([[0.3, -0.2]], requires_grad=True)
    loss = clothes_adversarial_loss(cosine, torch.tensor([1]), torch.ones(1, 2, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, cosine)
    assert loss.item() == 0
    assert gradient.tolist() == [[0, 0]]


def test_cal_is_stable_where_exponentials_overflow() -> None:
    cosine = torch.tensor([[1.0, -1.0, 1.0]], requires_grad=True)
    same_person = torch.tensor([[True, True, False]])
    loss = clothes_adversarial_loss(cosine, torch.tensor([0]), same_person, epsilon=0.5, scale=1000.0)
    (gradient,) = torch.autograd.grad(loss, cosine)
    assert loss.item() == pytest.approx(0.75 * math.log(2) + 0.25 * 2000)
    assert gradient.isfinite().all()


def test_cal_of_many_classes_needs_little_memory() -> None:
    batch, classes = 16, 50_000  # one (B, C, C) array would take 160 GB
    cosine = torch.rand(batch, classes) * 2 - 1
    owner = torch.arange(classes) // 100
    clothes = torch.arange(batch) * 100
    same_person = owner[clothes][:, None] == owner
    loss = clothes_adversarial_loss(cosine, clothes, same_person)
    assert loss.isfinite()
