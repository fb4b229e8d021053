"""From released pictures to the loader's clips: source shards keep the bytes, the loader resizes like PIL."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from data_tools.clips import ClipOptions
from data_tools.datasets.problems import Dataset
from data_tools.identity_sampler import Schedule
from data_tools.loader import ClipLoader, TrainingClips, TrainingItems, tracklet_clips
from data_tools.loading_options import AugmentOptions, LoaderOptions, ResizeFilter
from data_tools.shard_plan import ShardOptions
from data_tools.shards import ShardFolder
from data_tools.tracklet import ImageFrames, Tracklet
from tests.made_shards import make_shards

ONE_PICTURE = ClipOptions(length=1, stride=1, piece=0)
HEIGHT, WIDTH = 96, 48
SIZES = [(WIDTH, HEIGHT), (31, 77), (200, 310), (64, 128), (10, 12)]


def write_picture(path: Path, size: tuple[int, int], mode: str, seed: int) -> None:
    """Soft colours with fine grain, in one of PIL's modes."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.normal(size=(size[1], size[0], 3)) * 9
    pixels = np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def make_pictures(folder: Path, suffix: str, modes: list[str]) -> list[Tracklet]:
    pictures = [(size, mode) for mode in modes for size in SIZES]
    tracklets = []
    for number, (size, mode) in enumerate(pictures):
        name = f"{number}.{suffix}"
        write_picture(folder / name, size, mode, number)
        tracklets.append(Tracklet(name, str(number), "0", "0", "train", ImageFrames(folder, (name,)), (0,)))
    return tracklets


def source_shards(tracklets: list[Tracklet], folder: Path) -> ShardFolder:
    options = ShardOptions(format="source", shard_mebibytes=0.01)
    make_shards(Dataset("pictures", tuple(tracklets)), folder, options)
    return ShardFolder(folder)


def as_pil_resizes(path: Path, resampling: Image.Resampling) -> npt.NDArray[np.int16]:
    """(H, W, 3) grey levels."""
    with Image.open(path) as picture:
        resized = picture.convert("RGB").resize((WIDTH, HEIGHT), resampling)
    return np.asarray(resized).astype(np.int16)


def embedded_pictures(store: ShardFolder, resize_filter: ResizeFilter) -> npt.NDArray[np.uint8]:
    """Every picture, (B, H, W, 3), as loaded for evaluation."""
    batches = tracklet_clips(
        store,
        range(len(store.rows)),
        clip=ONE_PICTURE,
        image_size=(HEIGHT, WIDTH),
        clips_per_batch=3,
        options=LoaderOptions(),
        resize_filter=resize_filter,
    )
    clips = [(batch.frames_BTCHW.clone(), batch.tracklet_B) for batch in batches]
    assert torch.equal(torch.cat([rows for _, rows in clips]), torch.arange(len(store.rows))), "one clip a picture"
    return torch.cat([frames for frames, _ in clips])[:, 0].permute(0, 2, 3, 1).numpy()


def training_pictures(store: ShardFolder, resize_filter: ResizeFilter) -> npt.NDArray[np.uint8]:
    """Every picture, (B, H, W, 3), as loaded for training, without augmentation."""
    row = np.arange(len(store.rows))
    items = TrainingItems.cut(store.rows.frame_count_N[row], row, row, row, row * 0, ONE_PICTURE.piece)
    assert len(items) == len(row)
    clips = TrainingClips(store, items, ONE_PICTURE, AugmentOptions(flip=0), (HEIGHT, WIDTH), resize_filter)
    [batch] = ClipLoader(clips, LoaderOptions(threads=2)).batches(Schedule(row[None], row[None]))
    assert batch.frames_BTCHW.shape == (len(row), 1, 3, HEIGHT, WIDTH)
    return batch.frames_BTCHW[:, 0].permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("suffix", "modes"), [("jpg", ["RGB", "L"]), ("png", ["RGB", "L", "P", "RGBA"])])
def test_a_clip_of_one_picture_is_the_picture_as_pil_resizes_it(suffix: str, modes: list[str], tmp_path: Path) -> None:
    tracklets = make_pictures(tmp_path, suffix, modes)
    store = source_shards(tracklets, tmp_path / "shards")
    assert store.manifest.image_size is None
    assert len(store.manifest.shards) > 1
    for row, tracklet in enumerate(tracklets):
        assert store.encoded_frames(row, [0])[0].tobytes() == (tmp_path / tracklet.id).read_bytes()

    filters: dict[ResizeFilter, Image.Resampling] = {
        "bicubic": Image.Resampling.BICUBIC,
        "bilinear": Image.Resampling.BILINEAR,
    }
    for (resize_filter, resampling), load in product(filters.items(), (embedded_pictures, training_pictures)):
        expected = np.stack([as_pil_resizes(tmp_path / tracklet.id, resampling) for tracklet in tracklets])
        frames_BHWC = load(store, resize_filter)
        assert np.abs(frames_BHWC.astype(np.int16) - expected).max() <= 1
