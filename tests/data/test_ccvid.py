"""The CCVID reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_tools.datasets.ccvid import CameraRule, CcvidOptions, read_ccvid
from data_tools.datasets.checks import check_dataset
from data_tools.errors import InputError
from data_tools.tracklet import ImageFrames
from tests.data.findings import found
from tests.data.released_formats import CCVID_LISTS, make_ccvid


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_ccvid(tmp_path / "CCVID")


def test_reads_the_released_format(root: Path) -> None:
    dataset = check_dataset(read_ccvid(root), ("train", "query", "gallery"))

    assert dataset.problems == ()
    listed = [(split, *entry) for split, entries in CCVID_LISTS.items() for entry in entries]
    assert [(t.split, t.id, t.person, t.clothes) for t in dataset.tracklets] == listed
    session3 = next(t for t in dataset.tracklets if t.id == "session3/003_01")
    assert session3.source == ImageFrames(root / "session3/003_01", ("00001.jpg", "00002.jpg", "00003.jpg"))
    assert session3.frame_index == (1, 2, 3)
    assert session3.attributes == {"session": "session3"}
    assert session3.origin == f"{root / 'gallery.txt'}:2"


@pytest.mark.parametrize(
    ("rule", "cameras"),
    [
        ("released", ["1", "2", "1", "2", "1", "1", "2", "13", "12"]),
        ("walk", ["1", "2", "1", "2", "1", "1", "2", "1", "12"]),
        (
            "session_and_walk",
            [f"session{walk}" for walk in ["1_1", "1_2", "2_1", "2_2", "1_1", "1_1", "1_2", "3_1", "2_12"]],
        ),
    ],
)
def test_camera_rule(root: Path, rule: CameraRule, cameras: list[str]) -> None:
    dataset = read_ccvid(root, CcvidOptions(camera_rule=rule))
    assert [tracklet.camera for tracklet in dataset.tracklets] == cameras


def test_frames_are_in_the_order_of_their_numbers(root: Path) -> None:
    folder = root / "session1/001_01"
    for file in folder.iterdir():
        file.unlink()
    for name in ("10.jpg", "9.jpg", "100.JPG", "notes.txt", ".hidden.jpg"):
        (folder / name).write_bytes(b"")
    tracklet = read_ccvid(root).tracklets[0]
    assert isinstance(tracklet.source, ImageFrames)
    assert tracklet.source.names == ("9.jpg", "10.jpg", "100.JPG")
    assert tracklet.frame_index == (9, 10, 100)


def test_frames_without_numbers_are_counted_from_0(root: Path) -> None:
    (root / "session1/001_01/last.jpg").write_bytes(b"")
    assert read_ccvid(root).tracklets[0].frame_index == (0, 1, 2, 3)


def test_every_wrong_line_is_named(root: Path) -> None:
    with (root / "query.txt").open("ab") as file:
        file.write(b"\r\n  \nsession1/005_01\t005\n")
        file.write(b"../session1/001_01\t001\tu0\n")
        file.write(b"/etc/001_01\t001\tu0\n")
        file.write(b"session1/001_x\t001\tu0\n")
        file.write(b"session1/\xff_01\t001\tu0\n")
        file.write(b"session1/001_01\x00\t001\tu0\n")
    errors = found(read_ccvid(root), "error")
    assert [(file, line) for file, line, _ in errors] == [("query.txt", line) for line in (5, 6, 7, 8, 9, 10)]
    assert errors[0][2] == (r"has 2 columns, expected folder, person and clothes: 'session1/005_01\t005'")
    assert errors[1][2] == "folder '../session1/001_01', expected one like session1/001_01"
    assert "not UTF-8" in errors[4][2]
    assert "control characters" in errors[5][2]


def test_byte_order_mark_and_windows_line_ends_do_not_matter(root: Path) -> None:
    before = read_ccvid(root)
    for path in root.glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_ccvid(root) == before


def test_a_missing_list_is_an_error(root: Path) -> None:
    (root / "gallery.txt").unlink()
    dataset = read_ccvid(root)
    assert found(dataset, "error") == [("gallery.txt", None, "cannot be read: No such file or directory")]
    with pytest.raises(InputError, match=r"data set ccvid: fix 1 error.*\n.*gallery\.txt: cannot be read"):
        dataset.raise_on_errors()


def test_missing_and_empty_folders_are_quarantined(root: Path) -> None:
    for folder in (root / "session1/001_01", root / "session1/003_02"):
        for file in folder.iterdir():
            file.unlink()
    (root / "session1/001_01").rmdir()
    dataset = check_dataset(read_ccvid(root))
    quarantined = [(p.severity, Path(p.file).name, p.line, p.tracklet) for p in dataset.problems]
    assert quarantined == [
        ("quarantine", "train.txt", 1, "session1/001_01"),
        ("quarantine", "gallery.txt", 1, "session1/003_02"),
    ]
    assert len(dataset.tracklets) == 7
    dataset.raise_on_errors()


def test_a_missing_data_set_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing: no such folder, expected the folder of CCVID"):
        read_ccvid(tmp_path / "nothing")
