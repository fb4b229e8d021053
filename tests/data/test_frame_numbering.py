"""Frames numbered from 0 or from 1: certain, the same as in other files of the kind, or asked of the user."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.findings import found
from tests.data.made_footage import FRAMES, frames_of, make_gate, mot, read
from tests.data.made_videos import make_video

HEADER = "frame,id,x,y,w,h\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``gate.mp4``."""
    return make_gate(tmp_path)


@pytest.mark.parametrize("header", ["", HEADER, HEADER.replace("frame", "frame_index")])
@pytest.mark.parametrize(("frames", "first"), [(range(10), 0), (range(51, 61), 50), (range(1, 61), 0)])
def test_certain_files(folder: Path, header: str, frames: range, first: int) -> None:
    (folder / "gate.csv").write_text(header + mot(1, frames, rest=""))
    dataset = read(folder)
    assert frames_of(dataset.tracklets[0])[0] == first
    assert found(dataset, "error") == []
    from_zero = [message for _, _, message in found(dataset, "warning") if message.startswith("frames are numbered")]
    assert from_zero == (["frames are numbered from 0 (1) in 1 track files"] if frames[0] == 0 else [])


def test_a_frame_0_and_one_beyond_are_an_error(folder: Path) -> None:
    (folder / "gate.txt").write_text(mot(1, range(FRAMES + 3)))
    [(_, line, message)] = found(read(folder), "error")
    assert line == FRAMES + 1
    assert message == (
        "frame 60 is beyond the video's 60 frames; the same holds for 2 more of the file's 63 boxes (frames 60 to 62)"
    )


def test_files_that_do_not_tell(folder: Path) -> None:
    (folder / "gate.txt").write_text(mot(1, range(1, 21)))
    assert [problem.message for problem in read(folder).problems] == [], "MOT text that begins with 1"
    (folder / "gate.txt").write_text(mot(1, range(5, 21)))
    dataset = read(folder)
    assert frames_of(dataset.tracklets[0])[0] == 4
    [(_, _, message)] = found(dataset, "warning")
    assert message.startswith("frames are numbered from 1 (1) in 1 track files; 1 of them do not show it")
    assert "gate" in message
    assert read(folder, first_frame=1).problems == ()
    zero = read(folder, first_frame=0)
    assert (frames_of(zero.tracklets[0])[0], zero.problems) == (5, ())


def test_an_index_that_does_not_tell_is_asked_about(folder: Path) -> None:
    (folder / "gate.csv").write_text("Frame_Index,id,x,y,w,h\n" + mot(1, range(5, 21), rest=""))
    [(_, _, message)] = found(read(folder), "error")
    assert message == (
        "column Frame_Index, 5 to 20 in a video of 60 frames, may start at 0 or 1; set --data.footage.first_frame"
    )


def test_files_follow_those_of_their_kind(tmp_path: Path) -> None:
    for name, frames in (("a", range(20)), ("b", range(5, 20)), ("c", range(7, 20))):
        make_video(tmp_path / f"{name}.mp4")
        (tmp_path / f"{name}.txt").write_text(mot(1, frames))
    dataset = read(tmp_path)
    assert [frames_of(tracklet)[0] for tracklet in dataset.tracklets] == [0, 5, 7]
    message = "frames are numbered from 0 (3) in 3 track files; 2 of them do not show it and follow the others "
    assert [text.startswith(message) for _, _, text in found(dataset, "warning")] == [True]
    (tmp_path / "c.txt").write_text(mot(1, range(7, 21)))
    dataset = read(tmp_path)
    assert [frames_of(tracklet)[0] for tracklet in dataset.tracklets] == [0, 4, 6], "the certain ones do not agree"
    [(_, _, text)] = found(dataset, "warning")
    assert text.startswith("frames are numbered from 0 (1) and from 1 (2) in 3 track files; 1 of them do not show it")
