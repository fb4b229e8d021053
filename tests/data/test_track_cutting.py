"""Clipping boxes and cutting tracks: rules that hold for any box and any track."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from data_tools.datasets.track_cutting import clip_box, cut_apart, cut_evenly, split_at_gaps, take_stride
from data_tools.datasets.track_files import TrackBox

WIDTH, HEIGHT = 96, 64

finite = st.floats(allow_nan=False, allow_infinity=False)
sides = st.floats(min_value=0.01, allow_infinity=False)


@given(x=finite, y=finite, w=sides, h=sides, padding=st.floats(0, 1))
def test_a_clipped_box_lies_inside_the_picture(x: float, y: float, w: float, h: float, padding: float) -> None:
    box = clip_box((x, y, w, h), WIDTH, HEIGHT, padding)
    inside = x < WIDTH and y < HEIGHT and x + w > 0 and y + h > 0
    assert (box is not None) == inside
    if box is not None:
        left, top, width, height = box
        assert left >= 0
        assert top >= 0
        assert 0 <= width <= WIDTH
        assert 0 <= height <= HEIGHT
        assert left + width <= WIDTH * (1 + 1e-12)
        assert top + height <= HEIGHT * (1 + 1e-12)


runs = st.sets(st.integers(0, 300), min_size=1, max_size=80).map(
    lambda frames: [TrackBox(frame, (0.0, 0.0, 9.0, 9.0), 1) for frame in sorted(frames)]
)


@given(run=runs, max_gap=st.integers(0, 20))
def test_runs_split_exactly_at_the_gaps(run: list[TrackBox], max_gap: int) -> None:
    parts = split_at_gaps(run, max_gap)
    assert [box for part in parts for box in part] == run
    for part in parts:
        numbers = [box.frame for box in part]
        assert all(b - a <= max_gap + 1 for a, b in pairwise(numbers))
    for before, after in pairwise(parts):
        assert after[0].frame - before[-1].frame > max_gap + 1


@given(run=runs, maximum=st.integers(1, 30))
def test_long_runs_are_cut_evenly(run: list[TrackBox], maximum: int) -> None:
    parts = cut_evenly(run, maximum)
    lengths = [len(part) for part in parts]
    assert [box for part in parts for box in part] == run
    assert len(parts) == -(-len(run) // maximum)
    assert max(lengths) <= maximum
    assert max(lengths) - min(lengths) <= 1


@given(run=runs, pieces=st.integers(2, 5), gap=st.integers(0, 20))
def test_pieces_do_not_touch(run: list[TrackBox], pieces: int, gap: int) -> None:
    parts = cut_apart(run, pieces, gap)
    assert len(parts) == (pieces if len(run) >= pieces + gap * (pieces - 1) else 0)
    for before, after in pairwise(parts):
        assert after[0].frame - before[-1].frame > gap
        assert abs(len(before) - len(after)) <= 1
    if parts:
        assert (parts[0][0], parts[-1][-1]) == (run[0], run[-1])


@given(run=runs, stride=st.integers(1, 9))
def test_the_stride_keeps_every_nth_frame(run: list[TrackBox], stride: int) -> None:
    present = {box.frame for box in run}
    expected = [frame for frame in range(run[0].frame, run[-1].frame + 1, stride) if frame in present]
    assert [box.frame for box in take_stride(run, stride)] == expected
