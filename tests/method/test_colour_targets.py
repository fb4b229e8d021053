"""Colour targets: the released values, a naive loop, batches, chunks, and pictures of one colour."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ccvid import colour_targets
from ccvid.colour_target_options import ColourTargetOptions
from ccvid.colour_targets import ColourTarget, from_normalised, rgb_uv_histogram
from ccvid.losses.colour import colour_loss
from data_tools.transforms import normalise

REFERENCE = dict(np.load(Path(__file__).parent / "reference" / "csci_colour.npz"))
PICTURES = ("soft", "wide", "constant")
PROFILES: dict[int, tuple[ColourTarget, float]] = {
    9: (ColourTarget("mean", 32, 0.001, range_scaled=False), 10),
    17: (ColourTarget("mean", 32, 0.02, range_scaled=True), 1),
    41: (ColourTarget("three", 16, 0.02, range_scaled=True), 1000),
    44: (ColourTarget("mean", 64, 0.02, range_scaled=False), 1),
    49: (ColourTarget("three", 64, 0.02, range_scaled=True), 1000),
    54: (ColourTarget("three", 20, 1, range_scaled=False, kind="rgb"), 10),
}
"""Released profiles, each with its weight."""
TARGETS = [
    ColourTarget("three", 7, 0.3, range_scaled=True),
    ColourTarget("mean", 8, 0.02, range_scaled=False),
    ColourTarget("three", 5, 1, range_scaled=False, kind="rgb"),
]


def picture(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    """A reference picture as a batch of one."""
    return torch.from_numpy(REFERENCE[f"image.{name}"])[None].to(dtype)


def random_pictures(count: int = 3, height: int = 9, width: int = 4) -> Tensor:
    """uint8 pictures in which each channel is often 0 or 255."""
    shape = (count, 3, height, width)
    noise = torch.randint(-80, 336, shape, generator=torch.Generator().manual_seed(7))
    return noise.clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("sigma", [0.02, 0.001])
def test_histograms_equal_the_released_ones(name: str, sigma: float) -> None:
    (plane_3hh,) = rgb_uv_histogram(picture(name).flatten(2), 16, sigma)
    np.testing.assert_allclose(plane_3hh, REFERENCE[f"histogram.h16.sigma{sigma}.{name}"], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("profile", [9, 17, 41, 44, 49])
def test_targets_equal_the_released_ones(profile: int, name: str) -> None:
    target, weight = PROFILES[profile]
    found, expected = weight * target(picture(name)), REFERENCE[f"target.profile{profile}.{name}"]
    assert found.shape == expected.shape == (1, target.size)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11 * weight)


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize(("profile", "tolerance"), [(9, 5e-4), (17, 1e-5), (41, 1e-5), (44, 1e-5), (49, 1e-5)])
def test_float32_is_close(profile: int, tolerance: float, name: str) -> None:
    """Relative to the largest value; differences of logarithms are coarse beside a sigma of 0.001 (profile 9)."""
    target, weight = PROFILES[profile]
    found, exact = weight * target(picture(name, torch.float32)), REFERENCE[f"target.profile{profile}.{name}"]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, exact, rtol=0, atol=tolerance * exact.max())
    released = f"target.profile{profile}.{name}.as_released"
    as_released = np.asarray(REFERENCE.get(released, exact))
    np.testing.assert_allclose(found, as_released, rtol=0, atol=2 * tolerance * exact.max())


@pytest.mark.parametrize("name", PICTURES)
def test_rgb_histograms_equal_the_released_ones(name: str) -> None:
    target, weight = PROFILES[54]
    found = weight * target(picture(name, torch.float32))[0]
    assert found.nonzero()[:, 0].tolist() == REFERENCE[f"target.profile54.{name}.bins"].tolist()
    np.testing.assert_allclose(found[found > 0], REFERENCE[f"target.profile54.{name}.values"], rtol=1e-7)


@pytest.mark.parametrize("profile", [17, 41])
def test_targets_of_normalised_pictures(profile: int) -> None:
    target, weight = PROFILES[profile]
    found = weight * target(from_normalised(picture("normalised")))
    np.testing.assert_allclose(found, REFERENCE[f"target.profile{profile}.normalised"], rtol=1e-9, atol=1e-11 * weight)


def test_no_reference_is_left_out() -> None:
    profiles = {name.split(".")[1] for name in REFERENCE if name.startswith("target.")}
    assert profiles == {f"profile{profile}" for profile in PROFILES}


def test_normalising_is_undone() -> None:
    frames_BCHW = random_pictures()
    expected = frames_BCHW.double() / 255
    torch.testing.assert_close(from_normalised(normalise(frames_BCHW, torch.float64)), expected, rtol=0, atol=1e-15)
    assert from_normalised(normalise(frames_BCHW).bfloat16()).dtype == torch.float32


def naive(target: ColourTarget, picture_CHW: Tensor) -> list[float]:
    """The definition, a pixel and a bin at a time."""
    pixels = picture_CHW.flatten(1).T.tolist()
    h = target.bins
    if target.kind == "rgb":
        values = [0.0] * h**3
        for pixel in pixels:
            if all(0 <= value < 1 for value in pixel):
                red, green, blue = (math.floor(value * h) for value in pixel)
                values[red * h * h + green * h + blue] += 1
    else:
        centres = [-3 + 6 * place / (h - 1) for place in range(h)]
        planes = [[0.0] * h**2 for _ in range(3)]
        for pixel in pixels:
            logs = [math.log(min(max(value, 0), 1) + 1e-6) for value in pixel]
            for plane, (one, first, second) in zip(planes, ((0, 1, 2), (1, 0, 2), (2, 0, 1)), strict=True):
                for a, b in np.ndindex(h, h):
                    u, v = logs[one] - logs[first] - centres[a], logs[one] - logs[second] - centres[b]
                    plane[a * h + b] += 1 / (1 + (u / target.sigma) ** 2) / (1 + (v / target.sigma) ** 2)
        values = list(np.sum(planes, axis=0) if target.planes == "mean" else np.concatenate(planes))
    low = min(values) if target.range_scaled else 0.0
    values = [value - low for value in values]
    whole = max(values) if target.range_scaled else sum(values)
    return [value / whole for value in values]


@pytest.mark.parametrize("target", TARGETS)
def test_batches_equal_a_naive_loop(target: ColourTarget) -> None:
    frames_BCHW = random_pictures()
    found_BE = target(frames_BCHW.double() / 255)
    assert found_BE.dtype == torch.float64
    for found_E, frame_CHW in zip(found_BE, frames_BCHW.double() / 255, strict=True):
        np.testing.assert_allclose(found_E, naive(target, frame_CHW), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("target", TARGETS)
def test_a_picture_has_the_same_target_in_any_batch_and_type(target: ColourTarget) -> None:
    frames_BCHW = random_pictures()
    together_BE = target(frames_BCHW)
    assert together_BE.dtype == torch.float32
    torch.testing.assert_close(together_BE, torch.cat([target(frame_CHW[None]) for frame_CHW in frames_BCHW]))
    torch.testing.assert_close(together_BE, target(frames_BCHW.float() / 255), rtol=0, atol=0)
    torch.testing.assert_close(together_BE, target(frames_BCHW.double() / 255).float(), rtol=1e-4, atol=1e-5)
    channels_last = frames_BCHW.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(together_BE, target(channels_last), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(target(frames_BCHW), together_BE)


def test_few_kernels_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    frames_BCHW = random_pictures().double() / 255
    target = TARGETS[0]
    whole_BE = target(frames_BCHW)
    for values in (1, 3 * 7 * 3 * 5, 3 * 7 * 3 * 36):  # a pixel of each picture, five, all
        monkeypatch.setattr(colour_targets, "CHUNK_VALUES", values)
        torch.testing.assert_close(target(frames_BCHW), whole_BE, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("level", [0, 1, 127, 255])
@pytest.mark.parametrize("channels", [(1, 1, 1), (1, 0, 0), (0, 1, 1)])
@pytest.mark.parametrize("range_scaled", [True, False])
def test_pictures_of_one_colour(level: int, channels: tuple[int, int, int], range_scaled: bool) -> None:
    """Black, white and primary colours too: finite targets, and finite gradients of the loss."""
    frames_BCHW = (level * torch.tensor(channels, dtype=torch.uint8))[None, :, None, None].expand(2, 3, 5, 4)
    sizes = ((2, 1e-3), (16, 1e-3), (16, 0.02))
    targets = [ColourTarget("three", bins, sigma, range_scaled) for bins, sigma in sizes]
    targets.append(ColourTarget("three", 4, 1, range_scaled, kind="rgb"))
    for target in targets:
        target_BE = target(frames_BCHW)
        assert target_BE.isfinite().all()
        assert target_BE.min() >= 0
        output_BE = torch.ones(2, target.size, requires_grad=True)
        (gradient,) = torch.autograd.grad(colour_loss(output_BE, target_BE), output_BE)
        assert gradient.isfinite().all()


def test_a_histogram_without_counts_or_range_is_zeros() -> None:
    white = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    for target in (
        ColourTarget("three", 4, 1, range_scaled=False, kind="rgb"),  # no pixel is counted
        ColourTarget("mean", 2, 0.02, range_scaled=True),  # all bins are equally far
    ):
        assert target(white).tolist() == [[0] * target.size]


def test_a_target_is_built_from_its_options() -> None:
    for target, _ in PROFILES.values():
        sigma = {} if target.kind == "rgb" else {"sigma": target.sigma}
        options = ColourTargetOptions(
            planes=target.planes, bins=target.bins, range_scaled=target.range_scaled, kind=target.kind, **sigma
        )
        assert ColourTarget(**options.model_dump()).size == options.size == target.size
    assert ColourTargetOptions().size == 768


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "rgb", "planes": "mean"}, "planes needs kind rgb_uv, not rgb"),
        ({"kind": "rgb", "sigma": 0.001}, "sigma needs kind rgb_uv, not rgb"),
        ({"kind": "rgb", "bins": 64}, "64 bins of kind rgb make 262,144 values, at most 49,152"),
        ({"bins": 1}, "greater than or equal to 2"),
        ({"sigma": 0}, "greater than 0"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ColourTargetOptions(**settings)
