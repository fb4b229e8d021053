"""Which frames of a tracklet form a clip: random ones for training, all of them for testing.

    N frames, clips of L frames at stride S (here L = 4, S = 2, N = 14)

    frame           0  1  2  3  4  5  6  7 | 8  9 10 11 |12 13
    clip            a  b  a  b  a  b  a  b | c  c  c  c | d  d  d  d = 12 13 12 13

Every position is 0-based within the tracklet.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from data_tools.options import Options, Rare

Positions = NDArray[np.int64]


class ClipOptions(Options):
    """How clips are cut from tracklets."""

    length: int = Field(default=8, ge=1, le=256)
    """Frames of a clip."""
    stride: int = Field(default=4, ge=1, le=256)
    """Frames from one frame of a clip to the next."""
    piece: int = Field(default=64, ge=0)
    """Frames of a training piece; 0: do not cut. Training tracklets are cut into pieces, each an item of its own."""
    test_length: Annotated[int | None, Rare()] = Field(default=None, ge=1, le=256)
    """Frames of a test-time clip before clip.test_places leaves some out. Default: clip.length."""
    test_places: Annotated[tuple[int, ...], Rare()] = ()
    """Which frames of a test-time clip of clip.test_length are kept, as many as clip.length. 0 is the first."""

    @model_validator(mode="after")
    def _kept_places_fit(self) -> ClipOptions:
        if (self.test_length is None) != (not self.test_places):
            raise ValueError("test_length and test_places go together: set both or neither")
        places = list(self.test_places)
        if self.test_length is not None and (
            len(places) != self.length
            or places != sorted(set(places))
            or not 0 <= places[0] <= places[-1] < self.test_length
        ):
            raise ValueError(
                f"test_places {places}: expected length ({self.length}) rising places from 0 to {self.test_length - 1}"
            )
        return self


def dense_pieces(frame_count: int, piece: int) -> list[tuple[int, int]]:
    """Cut a training tracklet into pieces [start, end) of ``piece`` frames; the last also takes the rest.

    ``piece`` 0, or more than the tracklet has, gives one piece: the tracklet.
    """
    assert frame_count > 0, f"{frame_count=}"
    count = max(1, frame_count // piece) if piece else 1
    ends = [piece * number for number in range(1, count)] + [frame_count]
    return list(zip([0, *ends], ends, strict=False))


def random_clip(frame_count: int, clip: ClipOptions, rng: np.random.Generator) -> Positions:
    """Draw one training clip, L positions in rising order, as the released TemporalRandomCrop does.

    - N ≥ L·S: every S-th frame from a start drawn evenly among those that fit, 0 … N − 1 − (L − 1)·S.
    - L ≤ N < L·S: the first L·⌊N / L⌋ frames in L equal parts, one frame drawn from each.
    - N < L: L frames drawn with replacement, sorted.

    Returns:
        int64, shape (L,), each in [0, frame_count).
    """
    assert frame_count > 0, f"{frame_count=}"
    if frame_count >= clip.length * clip.stride:
        start = rng.integers(frame_count - (clip.length - 1) * clip.stride)
        return np.arange(start, start + clip.length * clip.stride, clip.stride)
    part = frame_count // clip.length
    if part:
        return np.arange(0, part * clip.length, part) + rng.integers(part, size=clip.length)
    return np.sort(rng.integers(frame_count, size=clip.length))


def all_clips(frame_count: int, clip: ClipOptions) -> Positions:
    """All test-time clips of a tracklet. Together they cover every frame, as the released recombination does.

    Each window of L·S frames is de-interleaved into S clips. The frames left over form one window at the largest
    stride that they fill (⌊rest / L⌋). The last frames, fewer than L, are repeated in order until they fill a clip.
    With ``test_length`` L is that, and of each clip only the frames at ``test_places`` are kept.

    Returns:
        int64, shape (clips, L), each in [0, frame_count).
    """
    assert frame_count > 0, f"{frame_count=}"
    length = clip.test_length or clip.length
    windows, rest = divmod(frame_count, length * clip.stride)
    rest_stride, tail = divmod(rest, length)
    full = _windows(windows, length, clip.stride)
    clips = [full, full.size + _windows(1, length, rest_stride)]
    if tail:
        clips.append(np.resize(np.arange(frame_count - tail, frame_count), (1, length)))
    return np.concatenate(clips)[:, clip.test_places or slice(None)]


def count_clips(frame_count_N: NDArray[np.integer[Any]], clip: ClipOptions) -> NDArray[np.int64]:
    """How many clips :func:`all_clips` makes of each tracklet, int64 (N,), from its number of frames (N,)."""
    length = clip.test_length or clip.length
    windows_N, rest_N = np.divmod(frame_count_N.astype(np.int64), length * clip.stride)
    rest_stride_N, tail_N = np.divmod(rest_N, length)
    return windows_N * clip.stride + rest_stride_N + (tail_N > 0)


def _windows(count: int, length: int, stride: int) -> Positions:
    """``count`` windows of length · stride frames from 0 on, each as ``stride`` interleaved clips."""
    frames = np.arange(count * length * stride).reshape(count, length, stride)
    return frames.swapaxes(1, 2).reshape(count * stride, length)
