"""Boxes that can be read but look wrong are reported with counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.findings import found
from tests.data.made_footage import make_gate, mot, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``gate.mp4``, of 96x64 pixels."""
    return make_gate(tmp_path)


def doubts_in(folder: Path, text: str, **options: object) -> list[str]:
    (folder / "gate.txt").write_text(text)
    return [message for _, _, message in found(read(folder, **options), "warning")]


def test_corners(folder: Path) -> None:
    assert doubts_in(folder, mot(1, range(1, 31), "40,10,70,60")) == [
        "30 of 30 boxes cross the edge: are these x1 y1 x2 y2?"
    ]
    mixed = mot(1, range(1, 31), "40,10,70,60") + mot(2, range(1, 31), "5,5,25,55")
    assert doubts_in(folder, mixed)[0] == "30 of 60 boxes cross the edge: are these x1 y1 x2 y2?"


def test_another_picture(folder: Path) -> None:
    assert doubts_in(folder, mot(1, range(1, 31), "10,4,20,28")) == [
        "30 of 30 boxes lie in the upper left quarter of 96x64 pixels: are they for a smaller picture?"
    ]
    assert doubts_in(folder, mot(1, range(1, 31), "80,10,30,50")) == [
        "30 of 30 boxes cross the edge of 96x64 pixels: are they for a larger picture?"
    ]
    shares = doubts_in(folder, mot(1, range(1, 31), "0.5,0.25,0.1,0.5"))
    assert shares[0] == "30 of 30 boxes lie within 0 to 1: are they normalised instead of in pixels?"
    (folder / "gate.txt").write_text(mot(1, range(1, 31), "200,10,30,50"))
    [(_, line, message)] = found(read(folder), "error")
    assert line == 1
    assert message == (
        "box x, y, w, h = (200.0, 10.0, 30.0, 50.0) lies outside the picture of 96x64 pixels; the same holds for 29 "
        "more of the file's 30 boxes (drop them with --data.footage.outside_boxes drop)"
    )


def test_boxes_that_never_move(folder: Path) -> None:
    still = "".join(mot(track, range(1, 31), "40,12,20,40") for track in (1, 2))
    moving = "".join(
        mot(track, range(frame, frame + 1), f"{30 + frame / 4},12,20,40")
        for track in (3, 4, 5)
        for frame in range(1, 31)
    )
    assert doubts_in(folder, still) == [
        "in 2 of 2 tracks with at least 10 boxes, all boxes are identical: does the file repeat one box per track?"
    ]
    assert doubts_in(folder, still + moving) == [], "fewer than half of them"
    assert doubts_in(folder, moving) == []


def test_sound_boxes_are_not_doubted(folder: Path) -> None:
    walk = "".join(mot(1, range(frame, frame + 1), f"{-10 + 2 * frame},12,20,40") for frame in range(1, 50))
    assert doubts_in(folder, walk) == []
