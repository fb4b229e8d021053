"""The MEVID reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_tools.datasets.checks import check_dataset
from data_tools.datasets.mevid import MevidOptions, read_mevid
from data_tools.errors import InputError
from data_tools.tracklet import ImageFrames
from tests.data.findings import found
from tests.data.released_formats import make_mevid


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_mevid(tmp_path / "MEVID")


def test_reads_the_released_format(root: Path) -> None:
    dataset = check_dataset(read_mevid(root, MevidOptions(check_files=True)), ("train", "query", "gallery"))

    labels = [(t.id, t.person, t.clothes, t.camera, t.split) for t in dataset.tracklets]
    assert labels == [
        ("0201O001C330T000", "0201", "001", "330", "train"),
        ("0201O002C505T000", "0201", "002", "505", "train"),
        ("0202O001C299T007", "0202", "001", "299", "train"),
        ("0301O001C508T000", "0301", "001", "508", "query"),
        ("0301O001C436T001", "0301", "001", "436", "gallery"),
        ("0302O003C330T000", "0302", "003", "330", "query"),
        ("0301O002C436T000", "0301", "002", "436", "gallery"),
        ("0302O003C301T004", "0302", "003", "301", "gallery"),
    ]
    second = dataset.tracklets[1]
    assert second.source == ImageFrames(
        root / "bbox_train/0201", tuple(f"0201O002C505T000F{frame:05d}.jpg" for frame in (10, 11, 12))
    )
    assert second.frame_index == (10, 11, 12)
    assert second.origin == f"{root / 'track_train_info.txt'}:2"
    assert dataset.tracklets[2].frame_index == (5,), "a track of a single frame"


def test_location_by_camera_and_scale_by_track_name(root: Path) -> None:
    dataset = read_mevid(root)
    assert [dict(t.attributes) for t in dataset.tracklets if t.split != "train"] == [
        {"location": "indoor", "scale": "l"},
        {"location": "outdoor", "scale": "m"},
        {"location": "indoor", "scale": "l"},
        {"location": "outdoor"},
        {"location": "outdoor", "scale": "l"},
    ]
    assert found(dataset, "warning") == [
        (
            "track_test_info.txt",
            4,
            f"track 0301O002C436T000 has no scale in {root / 'test_track_scale.txt'}",
        )
    ]


def test_without_a_scale_file_there_is_one_warning(root: Path) -> None:
    (root / "test_track_scale.txt").unlink()
    dataset = read_mevid(root)
    assert [file for file, _, _ in found(dataset, "warning")] == ["test_track_scale.txt"]
    assert not any("scale" in tracklet.attributes for tracklet in dataset.tracklets)


def test_a_camera_of_unknown_location_has_none(root: Path) -> None:
    for path in (root / "test_name.txt", root / "test_track_scale.txt"):
        path.write_text(path.read_text().replace("0301O001C508", "0301O001C999"))
    info = root / "track_test_info.txt"
    lines = info.read_text().splitlines()
    lines[0] = "0 2 301 1 999"
    info.write_text("\n".join(lines))
    dataset = read_mevid(root)
    assert dataset.tracklets[3].attributes == {"scale": "l"}
    assert ("track_test_info.txt", 1, "camera 999 has no known location (indoor, outdoor)") in found(dataset, "warning")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0 3 201 1", "has 4 columns, expected start, end, person, outfit, camera: '0 3 201 1'"),
        ("0 3 201 1 nan", "camera is 'nan', expected a finite number"),
        ("0 3 201 1 1e999", "camera is '1e999', expected a finite number"),
        ("0 3 201 1.5 330", "outfit is '1.5', expected an integer of at least 0"),
        ("-1 3 201 1 330", "start is '-1', expected an integer of at least 0"),
        ("3 2 201 1 330", "chips 3 to 2, expected a range from 0 to 7, the lines of {root}/train_name.txt"),
        ("0 8 201 1 330", "chips 0 to 8, expected a range from 0 to 7, the lines of {root}/train_name.txt"),
        (
            "0 4 201 1 330",
            "{root}/train_name.txt:5: chip '0201O002C505T000F00010.jpg', expected one of person 201, "
            "outfit 1 and camera 330, named 0201O001C330T…F….jpg",
        ),
        ("0 1" + "0" * 5000 + " 201 1 330", "end is '10000"),
    ],
)
def test_a_wrong_info_row_is_named(root: Path, row: str, message: str) -> None:
    info = root / "track_train_info.txt"
    rows = info.read_text().splitlines()
    info.write_text("\n".join([row, *rows[1:]]))
    dataset = read_mevid(root)
    [(file, line, found_message)] = found(dataset, "error")
    assert (file, line) == ("track_train_info.txt", 1)
    assert found_message.startswith(message.format(root=root))
    assert len(dataset.tracklets) == 7, "the other rows are read"


@pytest.mark.parametrize("name", ["../0201O001C330T000F00000.jpg", "0201O001C330T000F00000.png", "", "\x00"])
def test_a_wrong_chip_name_is_refused(root: Path, name: str) -> None:
    names = root / "train_name.txt"
    names.write_text("\n".join([name, *names.read_text().splitlines()[1:]]))
    errors = found(read_mevid(root), "error")
    assert ("track_train_info.txt", 1) in [(file, line) for file, line, _ in errors]


@pytest.mark.parametrize("row", ["5", "-1", "x", "2"])
def test_a_wrong_query_row_is_named(root: Path, row: str) -> None:
    with (root / "query_IDX.txt").open("a") as file:
        file.write(f"{row}\n")
    [(file_name, line, message)] = found(read_mevid(root), "error")
    assert (file_name, line) == ("query_IDX.txt", 3)
    assert row in message


@pytest.mark.parametrize("text", ["0301O001C508T000F00002.jpg", "0301O001C508T000F00002.jpg x", "a l", "l"])
def test_a_wrong_scale_is_named(root: Path, text: str) -> None:
    with (root / "test_track_scale.txt").open("a") as file:
        file.write(f"{text}\n")
    [(file_name, line, message)] = found(read_mevid(root), "error")
    assert (file_name, line) == ("test_track_scale.txt", 5)
    assert text in message


def test_two_scales_for_one_track_are_an_error(root: Path) -> None:
    with (root / "test_track_scale.txt").open("a") as file:
        file.write("0301O001C508T000F00001.jpg m\n")
    [(_, line, message)] = found(read_mevid(root), "error")
    assert line == 5
    assert message == "track 0301O001C508T000 has scale m, but l in an earlier line"


def test_missing_folders_and_chips_are_quarantined(root: Path) -> None:
    (root / "bbox_test/0302").rename(root / "bbox_test/gone")
    (root / "bbox_train/0201/0201O002C505T000F00011.jpg").unlink()

    without_looking = check_dataset(read_mevid(root))
    assert [line for _, line, _ in found(without_looking, "quarantine")] == [3, 5]

    looked = check_dataset(read_mevid(root, MevidOptions(check_files=True)))
    assert [(file, line) for file, line, _ in found(looked, "quarantine")] == [
        ("track_train_info.txt", 2),
        ("track_test_info.txt", 3),
        ("track_test_info.txt", 5),
    ]
    assert "1 of the track's 3 chips are missing" in found(looked, "quarantine")[0][2]
    assert len(looked.tracklets) == 5


def test_a_missing_data_set_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing: no such folder, expected the folder of MEVID"):
        read_mevid(tmp_path / "nothing")
