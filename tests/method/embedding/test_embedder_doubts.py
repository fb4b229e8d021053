"""What two clips each of some tracklets tell about an embedder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ccvid.config import ModelOptions, Recipe
from ccvid.retrieval.embedding.embedder_doubts import (
    TRACKLETS,
    CosineSample,
    doubts_of_embedder,
    first_and_last,
    some_tracklets,
)
from data_tools.clips import ClipOptions, all_clips
from data_tools.shards import ShardFolder
from data_tools.stored_frames import decode_clip_

RECIPE = Recipe(
    clip=ClipOptions(length=1, stride=1, piece=0),
    model=ModelOptions(backbone="c2d_resnet18_slim", weights="random", height=32, width=16),
)


class Colours:
    """The mean colour of some bands of a person, minus ``grey``."""

    feature_size, device = 24, torch.device("cpu")

    def __init__(self, grey: float) -> None:
        self.grey = grey

    def embed_frames(self, frames_BTCHW: Tensor) -> Tensor:
        return frames_BTCHW.float().mean((1, 4)).view(-1, 3, 8, 4).mean(3).flatten(1) - self.grey


class OneChannel(Colours):
    """The bands of one channel, minus their mean."""

    def __init__(self, channel: int) -> None:
        super().__init__(0)
        self.channel = channel

    def embed_frames(self, frames_BTCHW: Tensor) -> Tensor:
        bands = frames_BTCHW[:, :, self.channel].float().mean((1, 3))
        return bands - bands.mean(1, keepdim=True)


def rows_of(store: ShardFolder) -> list[int]:
    return list(range(len(store.rows)))


def test_the_cosines_are_those_of_first_and_last_clips(tiny_shards: Path) -> None:
    store = ShardFolder(tiny_shards)
    rows, model = some_tracklets(store, rows_of(store)), Colours(90)
    assert len({store.rows[row].person for row in rows}) == len(rows) == 10
    found = [first_and_last(store, row, RECIPE) for row in rows]
    clips = torch.stack([clips_2TCHW for clips_2TCHW in found if clips_2TCHW is not None])
    for clip_2TCHW, row in zip(clips, rows, strict=True):
        positions, expected = all_clips(store.rows[row].frame_count, RECIPE.clip), torch.empty_like(clip_2TCHW)
        for clip_TCHW, place in zip(expected, (0, -1), strict=True):
            decode_clip_(clip_TCHW, store, row, positions[place])
        assert torch.equal(clip_2TCHW, expected)
    feature = torch.nn.functional.normalize(model.embed_frames(clips.flatten(0, 1)).double(), dim=1).view(-1, 2, 24)
    cosine = (feature[:, 0] @ feature[:, 1].T).numpy()
    sample = CosineSample.of(model, clips)
    np.testing.assert_allclose(sample.within_N, np.diag(cosine), rtol=1e-5)
    np.testing.assert_allclose(sample.between_P, cosine[~np.eye(len(cosine), dtype=bool)], rtol=1e-5, atol=1e-6)
    assert doubts_of_embedder(model, store, rows_of(store), RECIPE) == []


def test_colours_without_their_mean_are_all_alike(tiny_shards: Path) -> None:
    store = ShardFolder(tiny_shards)
    (doubt,) = doubts_of_embedder(Colours(-2000), store, rows_of(store), RECIPE)
    assert doubt.startswith("half of all pairs of different tracklets have a cosine above 1.000 (from 1.000 ")
    assert doubt.endswith("everybody looks the same to this network")


def test_the_wrong_order_of_colours_is_noticed() -> None:
    """Each person has a red pattern of its own; the blue one differs from clip to clip."""
    clips = torch.zeros((6, 2, 1, 3, 32, 16), dtype=torch.uint8)
    clips[:, :, :, 0] = torch.randint(0, 256, (6, 1, 1, 32, 16), generator=torch.Generator().manual_seed(0))
    clips[:, :, :, 2] = torch.randint(0, 256, (6, 2, 1, 32, 16), generator=torch.Generator().manual_seed(1))
    blue = OneChannel(2)
    *_, doubt = CosineSample.of(blue, clips).doubts(CosineSample.of(blue, clips.flip(-3)))
    assert "but with red and blue exchanged 1.000 and " in doubt
    assert CosineSample.of(OneChannel(0), clips).doubts(CosineSample.of(OneChannel(0), clips.flip(-3))) == []


@pytest.mark.parametrize(
    ("within", "between", "doubts"), [(0.9, 0.5, 0), (0.5, 0.5, 1), (0.4, 0.7, 1), (0.96, 0.97, 2)]
)
def test_what_is_doubted(within: float, between: float, doubts: int) -> None:
    sample = CosineSample(np.full(8, within), np.full(56, between))
    found = sample.doubts(sample)
    assert len(found) == doubts
    if within <= between:
        assert f"mean cosine of {within:.3f}, those of different tracklets {between:.3f}" in found[-1]


def test_too_little_to_judge(tiny_shards: Path) -> None:
    store = ShardFolder(tiny_shards)
    alike = Colours(-2000)
    assert doubts_of_embedder(alike, store, rows_of(store)[:2], RECIPE) == []
    whole = RECIPE.model_copy(update={"clip": ClipOptions(length=64, stride=1)})
    assert doubts_of_embedder(alike, store, rows_of(store), whole) == []  # one clip each
    assert len(some_tracklets(store, [0] * 100)) == 1
    assert TRACKLETS == 16
