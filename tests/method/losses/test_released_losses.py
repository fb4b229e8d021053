"""Losses: the released code's values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.method.loss_reference import REFERENCE
from tests.method.released_losses import RELEASED_LOSSES, value_and_gradient


@pytest.mark.parametrize("name", RELEASED_LOSSES)
def test_value_and_gradient_equal_the_released_ones(name: str) -> None:
    value, gradient = value_and_gradient(name, torch.float64, "cpu")
    np.testing.assert_allclose(value, REFERENCE[f"{name}.loss"], rtol=1e-9)
    np.testing.assert_allclose(gradient, REFERENCE[f"{name}.grad"], rtol=1e-9, atol=1e-12)


def test_no_released_loss_is_left_out() -> None:
    names = {name.removesuffix(".loss") for name in REFERENCE if name.endswith(".loss")}
    assert names - set(RELEASED_LOSSES) == {f"memory.step{step}" for step in range(3)}  # see test_memory
