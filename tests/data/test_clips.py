from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.clips import ClipOptions, all_clips, count_clips, dense_pieces, random_clip

REFERENCE = np.load(Path(__file__).parent / "reference" / "clip_indices.npz")
"""Keys ``test.N.L.S`` and ``dense.N.STEP``: the clips that the released code cuts from N frames."""

clip_options = st.builds(ClipOptions, length=st.integers(1, 20), stride=st.integers(1, 8))


def keys(kind: str) -> list[list[int]]:
    return [[int(n) for n in key.split(".")[1:]] for key in REFERENCE.files if key.startswith(kind)]


def test_the_reference_has_every_kind_of_tracklet() -> None:
    assert {tuple(key[1:]) for key in keys("test")} == {(8, 4), (16, 4), (4, 8)}
    assert {1, 7, 8, 31, 32, 33, 63, 64, 65, 127, 128, 590} <= {key[0] for key in keys("test")}


def test_all_clips_equal_the_released_recombination() -> None:
    for frames, length, stride in keys("test"):
        clips = all_clips(frames, ClipOptions(length=length, stride=stride))
        assert clips.dtype == np.int64
        np.testing.assert_array_equal(clips, REFERENCE[f"test.{frames}.{length}.{stride}"])


def test_dense_pieces_equal_the_released_ones() -> None:
    for frames, piece in keys("dense"):
        np.testing.assert_array_equal(dense_pieces(frames, piece), REFERENCE[f"dense.{frames}.{piece}"])


@given(st.integers(1, 700), clip_options)
def test_all_clips_hold_every_frame(frames: int, clip: ClipOptions) -> None:
    clips = all_clips(frames, clip)
    assert clips.shape[1] == clip.length
    assert set(clips.ravel().tolist()) == set(range(frames))
    assert count_clips(np.array([1, frames], np.int32), clip).tolist() == [len(all_clips(1, clip)), len(clips)]


@given(st.integers(1, 700), st.integers(0, 100))
def test_dense_pieces_follow_one_another(frames: int, piece: int) -> None:
    pieces = dense_pieces(frames, piece)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == frames
    assert all(end == start for (_, end), (start, _) in pairwise(pieces))
    if len(pieces) > 1:
        assert {end - start for start, end in pieces[:-1]} == {piece}
        assert piece <= pieces[-1][1] - pieces[-1][0] < 2 * piece


@given(st.integers(1, 700), clip_options, st.integers(0, 2**32))
def test_random_clip_rises_within_the_tracklet(frames: int, clip: ClipOptions, seed: int) -> None:
    positions = random_clip(frames, clip, np.random.default_rng(seed))
    assert positions.shape == (clip.length,)
    assert positions.dtype == np.int64
    assert positions[0] >= 0
    assert positions[-1] < frames
    steps = np.diff(positions)
    if frames >= clip.length * clip.stride:
        assert (steps == clip.stride).all()
    elif frames >= clip.length:
        part = frames // clip.length
        np.testing.assert_array_equal(positions // part, np.arange(clip.length))
    else:
        assert (steps >= 0).all()


def test_random_clip_reaches_every_start_and_no_other() -> None:
    clip, rng = ClipOptions(length=4, stride=3), np.random.default_rng(0)
    starts = {int(random_clip(15, clip, rng)[0]) for _ in range(400)}
    assert starts == set(range(6))  # the last start, 5, ends at frame 5 + 3 · 3 = 14


@pytest.mark.parametrize("frames", [3, 20, 40])
def test_random_clip_is_its_generators(frames: int) -> None:
    clip = ClipOptions(length=8, stride=4)
    draws = [random_clip(frames, clip, np.random.default_rng(seed)).tolist() for seed in [1, 1, 2, 3, 4]]
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) > 1
