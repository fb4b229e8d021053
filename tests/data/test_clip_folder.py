"""The reader of a folder of clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_tools.datasets.checks import check_dataset
from data_tools.datasets.clip_folder import ClipFolderOptions, read_clip_folder
from data_tools.errors import InputError
from data_tools.tracklet import VideoFrames
from tests.data.findings import found
from tests.data.made_videos import make_video

HEADER = "file,person,clothes,camera,split,height\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips in three containers, and files that are not videos."""
    clips = tmp_path / "clips"
    for name in ("north/anna.mp4", "bert.avi", "south/cleo.MKV"):
        make_video(clips / name, frame_count=3)
    (clips / "notes.txt").write_text("no video")
    (clips / "._bert.avi").write_bytes(b"no video")
    (clips / ".trash").mkdir()
    (clips / ".trash/old.mp4").write_bytes(b"")
    return clips


def test_every_clip_is_a_tracklet_of_whole_frames(folder: Path) -> None:
    dataset = check_dataset(read_clip_folder(ClipFolderOptions(folder=folder)))
    assert dataset.problems == ()
    assert [tracklet.id for tracklet in dataset.tracklets] == ["bert.avi", "north/anna.mp4", "south/cleo.MKV"]
    first = dataset.tracklets[0]
    assert first.source == VideoFrames(folder / "bert.avi", None, None)
    assert (first.person, first.clothes, first.camera, first.split) == (None, None, "bert.avi", "gallery")
    assert (first.frame_index, first.attributes, first.origin) == ((), {}, str(folder / "bert.avi"))


def test_labels(folder: Path) -> None:
    labels = folder.parent / "labels.csv"
    labels.write_text(f"{HEADER}north\\anna.mp4,anna,coat,c1,query,170\n./bert.avi,bert,,,,\n")
    dataset = read_clip_folder(ClipFolderOptions(folder=folder, labels=labels))
    assert dataset.problems == ()
    rows = [(t.person, t.clothes, t.camera, t.split, dict(t.attributes)) for t in dataset.tracklets]
    assert rows == [
        ("bert", None, "bert.avi", "gallery", {}),
        ("anna", "coat", "c1", "query", {"height": "170"}),
        (None, None, "south/cleo.MKV", "gallery", {}),
    ]
    assert [t.origin for t in dataset.tracklets] == [
        f"{labels}:3",
        f"{labels}:2",
        str(folder / "south/cleo.MKV"),
    ]


def test_a_labelled_clip_that_is_not_there_is_quarantined(folder: Path) -> None:
    labels = folder.parent / "labels.csv"
    labels.write_text(f"{HEADER}dora.mp4,dora,coat,c1,query,\n")
    dataset = read_clip_folder(ClipFolderOptions(folder=folder, labels=labels))
    [problem] = dataset.problems
    assert (problem.severity, problem.line, problem.tracklet) == ("quarantine", 2, "dora.mp4")
    assert problem.message == f"{folder / 'dora.mp4'}: no such clip"


@pytest.mark.parametrize("path", ["../anna.mp4", "/etc/passwd", "a/../../b.mp4", "C:\\x.mp4", "\\\\host\\x.mp4", "."])
def test_a_path_out_of_the_folder_is_refused(folder: Path, path: str) -> None:
    labels = folder.parent / "labels.csv"
    labels.write_text(f"{HEADER}{path},anna,coat,c1,query,\n")
    dataset = read_clip_folder(ClipFolderOptions(folder=folder, labels=labels))
    [(file, line, message)] = found(dataset, "error")
    assert (file, line) == ("labels.csv", 2)
    assert message.endswith("expected a relative path that stays in the data set's folder")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="clips: no such folder, expected a folder of video files"):
        read_clip_folder(ClipFolderOptions(folder=tmp_path / "clips"))


def test_missing_labels_and_clips_are_errors(tmp_path: Path) -> None:
    options = ClipFolderOptions(folder=tmp_path, labels=tmp_path / "labels.csv")
    assert found(read_clip_folder(options), "error") == [
        ("labels.csv", None, "cannot be read: No such file or directory"),
        ("labels.csv", None, "has no header, expected file,person,clothes,camera,split"),
        (tmp_path.name, None, "contains no video file"),
    ]
