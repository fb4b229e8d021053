"""Footage that arrives: complete once the tracks are there and both files have settled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_tools.datasets.arrivals import FolderState, look_at, require_arrivals_folder
from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.errors import InputError
from tests.data.made_footage import make_gate, mot

LATER = 1e11
"""A time at which everything has settled."""


def put(path: Path, content: str = "content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def look(folder: Path, settle: float = 10.0, now: float = LATER, **options: object) -> FolderState:
    return look_at(FootageOptions.model_validate({"videos": folder, **options}), settle, now)


def names(state: FolderState) -> list[str]:
    return [arrival.name for arrival in state.complete]


def test_a_video_is_complete_with_its_tracks_and_not_before(tmp_path: Path) -> None:
    assert look(tmp_path) == FolderState([], 0, [])
    put(tmp_path / "north" / "gate.mp4")
    assert look(tmp_path) == FolderState([], 1, [])
    tracks = put(tmp_path / "north" / "gate.txt", "")
    assert look(tmp_path).waiting == 1  # a tracker has opened it
    put(tracks, "1,1,2,3,4,5,1\n")
    [arrival] = look(tmp_path).complete
    assert (arrival.name, arrival.tracks) == ("north/gate", tracks)


def test_what_still_changes_is_waited_for(tmp_path: Path) -> None:
    files = [put(tmp_path / name) for name in ("gate.mp4", "gate.txt")]
    changed = max(file.stat().st_ctime for file in files)  # cannot be set
    for first, last in ((0, 1), (1, 0)):
        os.utime(files[first], (0, 0))
        os.utime(files[last], (0, changed + 1000))
        assert look(tmp_path, now=changed + 1009).waiting == 1
        assert look(tmp_path, now=changed + 1011).waiting == 0
    for file in files:  # an old file that has just been moved here
        os.utime(file, (0, 0))
    moved = max(file.stat().st_ctime for file in files)
    assert look(tmp_path, now=moved + 9).waiting == 1
    assert names(look(tmp_path, now=moved + 11)) == ["gate"]


@pytest.mark.parametrize("changed", ["gate.mp4", "gate.txt"])
@pytest.mark.parametrize("how", ["time", "size"])
def test_the_state_tells_any_other_content(changed: str, how: str, tmp_path: Path) -> None:
    for name in ("gate.mp4", "gate.txt"):
        os.utime(put(tmp_path / name), (1, 1))
    [before] = look(tmp_path).complete
    assert look(tmp_path).complete == [before]
    os.utime(put(tmp_path / changed, "content" if how == "time" else "contents"), (2, 2) if how == "time" else (1, 1))
    [after] = look(tmp_path).complete
    assert (after.name, after.state == before.state) == (before.name, False)


def test_a_sequence_of_pictures_changes_with_each_of_them(tmp_path: Path) -> None:
    picture = put(tmp_path / "gate" / "img1" / "000001.jpg")
    put(tmp_path / "gate" / "gt" / "gt.txt")
    [before] = look(tmp_path).complete
    os.utime(picture, (5, 5e9))
    assert look(tmp_path, now=5e9 + 9).waiting == 1
    [after] = look(tmp_path).complete
    assert after.state != before.state
    put(tmp_path / "gate" / "img1" / "000002.jpg")
    assert look(tmp_path).complete[0].state not in (before.state, after.state)


def test_the_oldest_comes_first_and_names_do_not_depend_on_others(tmp_path: Path) -> None:
    for age, name in enumerate(("b", "south/a", "a")):
        for suffix in ("mp4", "csv"):
            os.utime(put(tmp_path / f"{name}.{suffix}"), (0, 10**10 + age))
    assert names(look(tmp_path)) == ["b", "south/a", "a"]


def test_tracks_may_arrive_in_a_folder_of_their_own(tmp_path: Path) -> None:
    put(tmp_path / "videos" / "north" / "gate.mp4")
    tracks = put(tmp_path / "tracks" / "north" / "gate.parquet")
    [arrival] = look(tmp_path / "videos", tracks=tmp_path / "tracks").complete
    assert arrival.tracks == tracks


def test_track_files_that_were_found_are_looked_for_again_only_when_they_are_gone(tmp_path: Path) -> None:
    first = [put(tmp_path / name) for name in ("gate.mp4", "gate.txt")][1]
    known: dict[Path, Path] = {}
    options = FootageOptions(videos=tmp_path)
    assert look_at(options, 0, LATER, known).complete[0].tracks == first
    assert known == {tmp_path / "gate.mp4": first}
    second = put(tmp_path / "gate.csv")
    assert look_at(options, 0, LATER, known).complete[0].tracks == first
    first.unlink()
    assert look_at(options, 0, LATER, known).complete[0].tracks == second


def test_what_cannot_be_a_video_with_its_tracks_is_told(tmp_path: Path) -> None:
    for name in ("gate.mp4", "gate.avi", "gate.txt", "door.mp4", "door.txt", "door.csv", ".hidden.mp4"):
        put(tmp_path / name)
    state = look(tmp_path)
    assert (names(state), state.waiting) == (["gate"], 0)
    assert [problem.partition("has ")[2].partition(" ")[0] for problem in state.problems] == ["several", "the"]


def test_folders_are_required(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such folder, expected the one in which footage arrives"):
        require_arrivals_folder(FootageOptions(videos=tmp_path / "none"))
    with pytest.raises(InputError, match="no such folder, expected one in which the track file of each"):
        require_arrivals_folder(FootageOptions(videos=tmp_path, tracks=put(tmp_path / "all.json")))


def test_an_arrival_is_read_as_the_same_footage_by_its_name(tmp_path: Path) -> None:
    make_gate(tmp_path / "north")
    put(tmp_path / "north" / "gate.txt", mot(1, range(1, 41)))
    put(tmp_path / "gate.mp4")
    options = FootageOptions(videos=tmp_path, minimum_length=1)
    [arrival] = look(tmp_path).complete
    dataset = read_footage(options, videos={arrival.name: arrival.video})
    assert [(tracklet.id, tracklet.camera) for tracklet in dataset.tracklets] == [("north/gate/1", "north/gate")]
    assert [problem for problem in dataset.problems if problem.severity == "error"] == []
