"""Learning rates: by steps, and CSCI's by epochs as released."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from ccvid.optim_options import OptimOptions
from ccvid.training.schedules import learning_rate, learning_rate_factor

REFERENCE = dict(np.load(Path(__file__).parents[1] / "reference" / "csci_rates.npz"))
RELEASED = OptimOptions(
    schedule="epoch_cosine", learning_rate=2e-5, bias_rate=2, warmup_epochs=20, warmup_rate=7.8125e-7, final_rate=2e-6
)


def test_factors() -> None:
    steps = OptimOptions(milestones=(40, 80), decay=0.1)
    assert [learning_rate_factor(steps, epoch, 150) for epoch in (0, 39.9, 40, 80)] == pytest.approx([1, 1, 0.1, 0.01])
    warm = OptimOptions(milestones=(), warmup_epochs=10)
    assert [learning_rate_factor(warm, epoch, 20) for epoch in (0, 5, 10)] == pytest.approx([0.01, 0.505, 1])
    cosine = OptimOptions(schedule="cosine")
    assert [learning_rate_factor(cosine, epoch, 20) for epoch in (0, 10, 20)] == pytest.approx([1, 0.5, 0])
    assert all(learning_rate(steps, 3e-4, e, 150) == 3e-4 * learning_rate_factor(steps, e, 150) for e in (0, 7.3, 41))


@pytest.mark.parametrize("epochs", [60, 100])
def test_epoch_cosine_equals_the_released_rates(epochs: int) -> None:
    """From the first step of an epoch to its last."""
    for within in (0, 0.5, 1 - 1e-9):
        found = [
            [learning_rate(RELEASED, base, epoch + within, epochs) for base in (2e-5, 4e-5)] for epoch in range(epochs)
        ]
        np.testing.assert_allclose(found, REFERENCE[f"schedule.epochs{epochs}"], rtol=1e-15)


@pytest.mark.parametrize("name", [name.removesuffix(".lr1") for name in REFERENCE if name.endswith(".lr1")])
def test_epoch_cosine_equals_the_rates_of_the_released_trajectory(name: str) -> None:
    optim = RELEASED.model_copy(update={"learning_rate": 2e-3, "warmup_rate": 7.8125e-5})
    for epoch in (1, 2):
        found = [learning_rate(optim, base, epoch - 1, 60) for base in (2e-3, 4e-3)]
        np.testing.assert_allclose(found, REFERENCE[f"{name}.lr{epoch}"], rtol=1e-15)


def test_the_last_rate_is_the_final_one() -> None:
    """Also of an epoch that has been trained, and where the warm-up never ends."""
    assert learning_rate(RELEASED, 2e-5, 59, 60) == learning_rate(RELEASED, 2e-5, 60, 60) == 2e-6
    short = [learning_rate(RELEASED, 2e-5, epoch, 3) for epoch in range(3)]
    assert short == sorted(short)
    assert learning_rate(OptimOptions(schedule="epoch_cosine"), 1e-3, 0, 1) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_rate": 1e-6}, "warmup_rate needs schedule epoch_cosine, not multistep"),
        ({"schedule": "cosine", "final_rate": 1e-6}, "final_rate needs schedule epoch_cosine, not cosine"),
        ({"schedule": "epoch_cosine", "warmup_rate": 1e-6}, "warmup_rate needs warmup_epochs above 0"),
        ({"schedule": "epoch_cosine", "final_rate": 1e-6, "layer_decay": 0.8}, "final_rate .* would undo layer_decay"),
        ({"schedule": "epoch_cosine", "final_rate": 1e-3}, r"above any learning rate: expected at most 0\.00035"),
        (
            {"schedule": "epoch_cosine", "final_rate": 1e-4, "clothes_learning_rate": 5e-5, "bias_rate": 0.5},
            r"expected at most 2\.5e-05",
        ),
    ],
)
def test_rates_without_effect_or_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OptimOptions.model_validate(settings)
