"""Identity losses: naive loops, edge cases, and the settings of recipes."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import cross_entropy

from ccvid.config import MethodOptions, Recipe
from ccvid.losses.arcface import arcface_loss
from ccvid.losses.circle import circle_loss
from ccvid.losses.cosface import cosface_loss
from ccvid.losses.identity import identity_loss
from ccvid.training.build import identity_loss_of
from ccvid.training.cal_update import BatchLoss

MARGIN_LOSSES = {"arcface": arcface_loss, "cosface": cosface_loss, "circle": circle_loss}
PERSON_B = torch.tensor([0, 2, 1])


def test_identity_loss_equals_a_naive_loop() -> None:
    logits = [[0.5, -1.0, 2.0], [1.0, 0.0, 0.0]]
    persons, smoothing = [2, 1], 0.3
    expected = 0.0
    for row, person in zip(logits, persons, strict=True):
        whole = math.log(sum(math.exp(x) for x in row))
        for c, x in enumerate(row):
            expected += (smoothing / 3 + (1 - smoothing) * (c == person)) * (whole - x) / 2
    loss = identity_loss(torch.tensor(logits), torch.tensor(persons), label_smoothing=smoothing)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def naive_logit(name: str, cosine: float, *, target: bool, margin: float) -> float:
    """The formulas of the reference, one cosine at a time, without the scale."""
    if name == "cosface":
        return cosine - margin * target
    if name == "circle":
        if target:
            return max(0, 1 + margin - cosine) * (cosine - (1 - margin))
        return max(0, cosine + margin) * (cosine - margin)
    if not target:
        return cosine
    angle = math.acos(cosine)
    return math.cos(angle + margin) if angle < math.pi - margin else cosine - margin * math.sin(margin)


@pytest.mark.parametrize("name", MARGIN_LOSSES)
def test_margin_losses_equal_a_naive_loop(name: str) -> None:
    rows = [[0.9, 0.1, -0.5], [0.2, 0.3, -0.99], [0.2, -0.6, 0.4]]  # the second's target is beyond pi - margin
    expected = 0.0
    for row, person in zip(rows, PERSON_B.tolist(), strict=True):
        logits = [8 * naive_logit(name, cosine, target=c == person, margin=0.4) for c, cosine in enumerate(row)]
        expected += (math.log(sum(map(math.exp, logits))) - logits[person]) / 3
    loss = MARGIN_LOSSES[name](torch.tensor(rows, dtype=torch.float64), PERSON_B, scale=8.0, margin=0.4)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_no_margin_is_cross_entropy_of_the_scaled_cosines(name: str) -> None:
    cosine = torch.rand(3, 4, dtype=torch.float64) * 1.98 - 0.99
    loss = MARGIN_LOSSES[name](cosine, PERSON_B, scale=16.0, margin=0.0)
    torch.testing.assert_close(loss, cross_entropy(16 * cosine, PERSON_B))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MARGIN_LOSSES)
def test_gradients_are_finite_at_equal_and_opposite_directions(name: str, dtype: torch.dtype) -> None:
    cosine = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0 + 1e-7, 0.0]], dtype=dtype, requires_grad=True)
    loss = MARGIN_LOSSES[name](cosine, torch.tensor([0, 0, 0]), scale=64.0, margin=0.5)
    (gradient,) = torch.autograd.grad(loss, cosine)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient[1, 0] < 0  # learning still pulls the target closer


@pytest.mark.parametrize("name", ["cross_entropy", *MARGIN_LOSSES])
def test_a_recipe_names_the_loss(name: str) -> None:
    method = MethodOptions.model_validate({"identity_loss": name, "identity_scale": 4, "identity_margin": 0.25})
    cosine = torch.rand(3, 4, dtype=torch.float64) * 1.9 - 0.95
    expected: dict[str, BatchLoss] = {"cross_entropy": cross_entropy}

    def margin_loss(cosine_BC: Tensor, class_B: Tensor) -> Tensor:
        return MARGIN_LOSSES[name](cosine_BC, class_B, scale=4.0, margin=0.25)

    torch.testing.assert_close(
        identity_loss_of(method)(cosine, PERSON_B), expected.get(name, margin_loss)(cosine, PERSON_B)
    )
    smooth = MethodOptions(label_smoothing=0.1)
    torch.testing.assert_close(
        identity_loss_of(smooth)(cosine, PERSON_B), cross_entropy(cosine, PERSON_B, label_smoothing=0.1)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": {"identity_loss": "arcface", "label_smoothing": 0.1}}, "label_smoothing needs identity_loss"),
        ({"method": {"clothes_loss": False, "clothes_memory": True}}, "clothes_memory needs clothes_loss"),
        ({"method": {"pair_loss": "triplet"}, "batch": {"clips": 1}}, r"pair_loss needs batch\.clips of 2"),
        ({"method": {"identity_loss": "sphereface"}}, "identity_loss"),
        ({"method": {"identity_margin": -0.1}}, "identity_margin"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(settings)
