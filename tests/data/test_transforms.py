from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data_tools.loading_options import AugmentOptions
from data_tools.transforms import (
    ERASED_RGB,
    IMAGENET_MEAN,
    IMAGENET_STD,
    augment_,
    draw_augmentation,
    normalise,
    resize,
)


def clip(frames: int = 3, height: int = 32, width: int = 16) -> Tensor:
    """A smooth uint8 clip, (T, 3, H, W), channels last in memory; the frames differ."""
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(frames, 3, 4)) * 0.3
    y, x = np.mgrid[:height, :width]
    angle = waves[..., 0, None, None] * y + waves[..., 1, None, None] * x + 9 * waves[..., 2, None, None]
    pictures = (127 + 120 * np.sin(angle)).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 2, 3, 1))).permute(0, 3, 1, 2)


def augmented(clip_TCHW: Tensor, options: AugmentOptions, seed: int) -> Tensor:
    changed = clip_TCHW.clone()
    height, width = changed.shape[-2:]
    augment_(changed, draw_augmentation(options, height, width, np.random.default_rng(seed)))
    assert changed.stride() == clip_TCHW.stride()
    return changed


NO_CHANGE = AugmentOptions(flip=0)


@pytest.mark.parametrize("size", [(256, 128), (300, 90), (20, 10)])
def test_resize_equals_pils_bicubic(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (96, 48, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize(pixels, *size), expected)


def test_a_flip_turns_every_frame_or_none() -> None:
    frames = clip()
    assert torch.equal(augmented(frames, AugmentOptions(flip=1), 0), frames.flip(-1))
    assert torch.equal(augmented(frames, NO_CHANGE, 0), frames)
    both = [augmented(frames, AugmentOptions(flip=0.5), seed) for seed in range(200)]
    flipped = [torch.equal(made, frames.flip(-1)) for made in both]
    assert all(torch.equal(made, frames) for made, turned in zip(both, flipped, strict=True) if not turned)
    assert 70 < sum(flipped) < 130


def test_erasing_takes_one_rectangle_of_all_frames() -> None:
    frames = clip()
    shares = []
    for seed in range(50):
        made = augmented(frames, AugmentOptions(flip=0, erase=1), seed)
        erased = (made == torch.tensor(ERASED_RGB, dtype=torch.uint8)[:, None, None]).all(1).all(0)
        rows, columns = erased.any(1), erased.any(0)
        assert torch.equal(erased, rows[:, None] & columns)
        assert torch.equal(made[..., ~erased], frames[..., ~erased])
        assert max(int(side.int().diff().abs().sum()) for side in (rows, columns)) <= 2  # without a gap
        shares.append(float(erased.float().mean()))
    assert 0.01 <= min(shares) < 0.1
    assert 0.3 < max(shares) <= 0.45


def test_the_erased_grey_is_the_released_one_before_normalisation() -> None:
    grey = normalise(torch.tensor(ERASED_RGB, dtype=torch.uint8).view(1, 1, 3, 1, 1)).flatten()
    np.testing.assert_allclose(grey, [0.4914, 0.4822, 0.4465], atol=0.01)


def test_a_crop_cuts_the_enlarged_clip_at_one_place() -> None:
    frames = clip()
    enlarged = torch.nn.functional.interpolate(frames.float(), (36, 18), mode="bilinear")
    places = set()
    for seed in range(150):
        made = augmented(frames, AugmentOptions(flip=0, crop=1), seed).float()
        fits = [
            (top, left)
            for top in range(5)
            for left in range(3)
            if (enlarged[..., top : top + 32, left : left + 16] - made).abs().max() <= 2
        ]
        assert len(fits) == 1
        places.update(fits)
    assert len(places) == 15


def test_augmentation_is_its_generators_and_leaves_torchs_alone() -> None:
    frames, options = clip(), AugmentOptions(flip=0.5, crop=0.5, erase=0.5)
    state = torch.random.get_rng_state()
    made = [augmented(frames, options, seed) for seed in (4, 4, *range(5, 15))]
    assert torch.equal(made[0], made[1])
    assert any(not torch.equal(made[0], other) for other in made[2:])
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 0.02)]
)
def test_normalise_is_to_tensor_and_imagenets_normalisation(dtype: torch.dtype, tolerance: float) -> None:
    frames_BTCHW = clip().unsqueeze(0)
    normalised = normalise(frames_BTCHW, dtype)
    mean, std = (torch.tensor(figures, dtype=torch.float64).view(3, 1, 1) for figures in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (frames_BTCHW.double() / 255 - mean) / std
    assert normalised.dtype == dtype
    assert (normalised.double() - expected).abs().max() <= tolerance
    assert normalised.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
