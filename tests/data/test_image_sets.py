"""The readers of the image data sets: labels, splits, cameras, and problems of files that are not as released."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from data_tools.datasets.checks import check_dataset
from data_tools.datasets.deepchange import DeepChangeOptions, read_deepchange
from data_tools.datasets.last import LastOptions, read_last
from data_tools.datasets.ltcc import read_ltcc
from data_tools.datasets.prcc import read_prcc
from data_tools.datasets.problems import Dataset
from data_tools.datasets.vc_clothes import read_vc_clothes
from data_tools.errors import InputError
from data_tools.tracklet import SPLITS, ImageFrames
from tests.data.findings import found
from tests.data.image_formats import MAKERS
from tests.data.released_formats import write_crop

READERS: Mapping[str, Callable[[Path], Dataset]] = {
    "ltcc": read_ltcc,
    "prcc": read_prcc,
    "vc_clothes": read_vc_clothes,
    "deepchange": read_deepchange,
    "last": read_last,
}
SETS = sorted(READERS)


def make(name: str, folder: Path) -> Path:
    return MAKERS[name](folder / name)


def labels(dataset: Dataset, identifier: str) -> tuple[str, str | None, str | None, str]:
    """Split, person, clothes and camera of one tracklet."""
    [tracklet] = [tracklet for tracklet in dataset.tracklets if tracklet.id == identifier]
    return tracklet.split, tracklet.person, tracklet.clothes, tracklet.camera


def counts(dataset: Dataset) -> dict[str, int]:
    return {split: sum(tracklet.split == split for tracklet in dataset.tracklets) for split in SPLITS}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ltcc", {"train": 12, "query": 8, "gallery": 8}),
        ("prcc", {"train": 18, "query": 8, "gallery": 4}),
        ("vc_clothes", {"train": 12, "query": 8, "gallery": 8}),
        ("deepchange", {"train": 12, "query": 8, "gallery": 8}),
        ("last", {"train": 12, "query": 4, "gallery": 4}),
    ],
)
def test_every_picture_of_the_release_is_a_tracklet_of_one_frame(
    name: str, expected: dict[str, int], tmp_path: Path
) -> None:
    root = make(name, tmp_path)
    dataset = check_dataset(READERS[name](root), SPLITS)
    assert dataset.problems == ()
    assert dataset.name == name
    assert counts(dataset) == expected
    assert [tracklet.split for tracklet in dataset.tracklets] == [s for s in SPLITS for _ in range(expected[s])]
    for tracklet in dataset.tracklets:
        assert isinstance(tracklet.source, ImageFrames)
        [picture] = tracklet.source.names
        assert (tracklet.source.folder / picture).is_file()
        assert tracklet.id == (tracklet.source.folder / picture).relative_to(root).as_posix()
        assert tracklet.frame_index == (0,)
    assert READERS[name](root) == READERS[name](root)


def test_ltcc_labels(tmp_path: Path) -> None:
    dataset = read_ltcc(make("ltcc", tmp_path))
    assert labels(dataset, "train/001_2_c11_000250.png") == ("train", "001", "2", "11")
    assert labels(dataset, "test/007_1_c4_000150.png") == ("gallery", "007", "1", "4")
    assert dataset.tracklets[0].origin == str(tmp_path / "ltcc/train/001_1_c11_000150.png")


def test_prcc_labels_and_its_two_query_sets(tmp_path: Path) -> None:
    dataset = read_prcc(make("prcc", tmp_path))
    for camera, clothes in (("A", "AB"), ("B", "AB"), ("C", "C")):
        split = "gallery" if camera == "A" else "query"
        train = labels(dataset, f"rgb/train/002/{camera}_cropped_rgb001.jpg")
        assert train[:4] == ("train", "002", clothes, camera)
        test = labels(dataset, f"rgb/test/{camera}/007/cropped_rgb002.jpg")
        assert test[:4] == (split, "007", clothes, camera)


def test_vc_clothes_labels(tmp_path: Path) -> None:
    dataset = read_vc_clothes(make("vc_clothes", tmp_path))
    assert labels(dataset, "train/0001-04-02-01.jpg") == ("train", "0001", "02", "4")


def test_deepchange_takes_the_tracklet_for_the_camera_and_keeps_the_recorded_one(tmp_path: Path) -> None:
    root = make("deepchange", tmp_path)
    dataset = read_deepchange(root)
    assert labels(dataset, "test-set-query/P8_C9_1_T7_query.jpg") == ("query", "8", "1", "1007")
    last_query = dataset.tracklets[19]
    assert last_query.attributes == {"recorded_camera": "9"}
    assert last_query.origin == f"{root / 'test-set-query-bbox.txt'}:8"


def test_last_has_no_clothes_in_its_test_set_and_a_camera_for_each_picture(tmp_path: Path) -> None:
    dataset = read_last(make("last", tmp_path))
    train, gallery = "train/000002/000002_film_1_02.jpg", "test/gallery/000008/000008_film_2_01.jpg"
    assert labels(dataset, train) == ("train", "000002", "02", train)
    assert labels(dataset, gallery) == ("gallery", "000008", None, gallery)
    assert len({tracklet.camera for tracklet in dataset.tracklets}) == len(dataset.tracklets)


def test_the_validation_set_can_be_scored_in_place_of_the_test_set(tmp_path: Path) -> None:
    for dataset in (
        read_deepchange(make("deepchange", tmp_path), DeepChangeOptions(part="val")),
        read_last(make("last", tmp_path), LastOptions(part="val")),
    ):
        assert check_dataset(dataset, SPLITS).problems == ()
        assert {tracklet.person for tracklet in dataset.tracklets if tracklet.split != "train"} in ({"5"}, {"000005"})
        assert {tracklet.id[:3] for tracklet in dataset.tracklets if tracklet.split != "train"} == {"val"}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("ltcc", "train/001_1_4_000001.png"),
        ("ltcc", "query/x001_1_c4_000001.png"),
        ("ltcc", "test/001_1_c4_000001.jpg"),
        ("ltcc", "test/001_1_c4x.png"),
        ("prcc", "rgb/train/001/D_cropped_rgb001.jpg"),
        ("prcc", "rgb/test/C/007/cropped.png"),
        ("vc_clothes", "gallery/0001-01-01.jpg"),
        ("vc_clothes", "train/0001_01_01_01.jpg"),
        ("vc_clothes", "train/0001-01-01-01.jpg.jpg"),
        ("last", "train/000001/000001.jpg"),
        ("last", "train/000001/000002_film_1_01.jpg"),
        ("last", "test/query/P1_film_01.jpg"),
        ("last", "test/gallery/000007/000007_\x01_01.jpg"),
    ],
)
def test_a_picture_named_otherwise_is_an_error_and_the_rest_is_read(name: str, file: str, tmp_path: Path) -> None:
    root = make(name, tmp_path)
    before = READERS[name](root).tracklets
    write_crop(root / file)
    dataset = READERS[name](root)
    [(folder, line, message)] = found(dataset, "error")
    assert (folder, line) == (Path(file).parent.name, None)
    assert message.startswith(f"picture {Path(file).name!r}, expected ")
    assert dataset.tracklets == before


@pytest.mark.skipif(os.name == "nt", reason="no such names")
@pytest.mark.parametrize(("name", "folder"), [("ltcc", "train"), ("last", "test/query"), ("prcc", "rgb/test/A/007")])
def test_a_name_that_is_not_text_is_an_error(name: str, folder: str, tmp_path: Path) -> None:
    root = make(name, tmp_path)
    (root / folder / os.fsdecode(b"000007_1_c4_\xff.png")).write_bytes(b"")
    assert len(found(READERS[name](root), "error")) == 1


@pytest.mark.parametrize("name", SETS)
def test_hidden_files_and_files_that_are_no_pictures_are_passed_over(name: str, tmp_path: Path) -> None:
    root = make(name, tmp_path)
    before = READERS[name](root)
    for folder in {root, *((root / tracklet.id).parent for tracklet in before.tracklets)}:
        for stray in ("Thumbs.db", ".DS_Store", "._001_1_c1_1.png", "readme.txt"):
            (folder / stray).write_bytes(b"x")
    assert READERS[name](root) == before


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("ltcc", "test"),
        ("prcc", "rgb/test/C"),
        ("vc_clothes", "gallery"),
        ("deepchange", "test-set-gallery"),
        ("last", "test/query"),
    ],
)
def test_a_missing_or_an_empty_folder_is_one_error(name: str, folder: str, tmp_path: Path) -> None:
    root = make(name, tmp_path)
    (root / folder).rename(tmp_path / "away")
    dataset = READERS[name](root)
    assert found(dataset, "error") == [(Path(folder).name, None, "cannot be listed: No such file or directory")]
    with pytest.raises(InputError, match=f"{folder}: cannot be listed"):
        dataset.raise_on_errors()
    (root / folder).mkdir()
    problems = READERS[name](root).problems
    if name == "deepchange":
        assert {problem.severity for problem in problems} == {"quarantine"}
    else:
        assert [problem.severity for problem in problems] == ["error"]
        assert problems[0].message.startswith("contains no p")


@pytest.mark.parametrize(
    ("name", "folder"), [("prcc", "rgb/train"), ("prcc", "rgb/test/A"), ("last", "train"), ("last", "test/gallery")]
)
def test_person_folders_are_numbers_and_hold_pictures(name: str, folder: str, tmp_path: Path) -> None:
    root = make(name, tmp_path)
    (root / folder / "anna").mkdir()
    (root / folder / "9").mkdir()
    dataset = READERS[name](root)
    assert [(where, message) for where, _, message in found(dataset, "error")] == [
        ("9", "contains no pictures"),
        (Path(folder).name, "folder 'anna', expected a person's number"),
    ]


@pytest.mark.parametrize("name", SETS)
def test_a_missing_data_set_is_one_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing: no such folder, expected the folder of"):
        READERS[name](tmp_path / "nothing")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("P1_C2.jpg,7", "picture 'P1_C2.jpg', expected a name like P…_C…_OUTFIT….jpg"),
        ("1_C2_0_T1.jpg,7", "picture '1_C2_0_T1.jpg', expected a name like"),
        ("P1_C2_0_T1.jpg", "'P1_C2_0_T1.jpg', expected the picture's name, the tracklet's number"),
        ("P1_C2_0_T1.jpg,", "expected the picture's name, the tracklet's number"),
        ("P1_C2_0_T1.jpg,-7", "expected the picture's name, the tracklet's number"),
        ("../train-set/P1_C2_0_T1.jpg,7", "picture '../train-set/P1_C2_0_T1.jpg', expected"),
        ("P1_C2_0_/../../P1_C2_0_T1.jpg,7", "picture 'P1_C2_0_/../../P1_C2_0_T1.jpg', expected"),
        ("/etc/P1_C2_0_T1.jpg,7", "picture '/etc/P1_C2_0_T1.jpg', expected"),
        (r"..\P1_C2_0_T1.jpg,7", "expected a name like"),
        ("P1_C2_0\x00.jpg,7", "has control characters"),
    ],
)
def test_a_wrong_line_of_a_deepchange_list_is_named(line: str, message: str, tmp_path: Path) -> None:
    root = make("deepchange", tmp_path)
    with (root / "train-set-bbox.txt").open("a") as file:
        file.write(f"\n{line}\n")
    dataset = read_deepchange(root)
    [(name, number, text)] = found(dataset, "error")
    assert (name, number) == ("train-set-bbox.txt", 14)
    assert message in text
    assert counts(dataset)["train"] == 12


def test_a_listed_picture_that_is_missing_is_quarantined_and_one_listed_twice_is_an_error(tmp_path: Path) -> None:
    root = make("deepchange", tmp_path)
    path = root / "train-set-bbox.txt"
    lines = path.read_text().splitlines()
    (root / "train-set" / lines[2].split(",")[0]).unlink()
    path.write_text("\n".join([*lines, lines[0]]))
    dataset = check_dataset(read_deepchange(root))
    [missing] = [problem for problem in dataset.problems if problem.severity == "quarantine"]
    assert (missing.file, missing.line) == (str(path), 3)
    assert missing.message == f"the picture {root / 'train-set' / lines[2].split(',')[0]} is missing"
    assert found(dataset, "error") == [
        ("train-set-bbox.txt", 13, f"duplicate tracklet id train-set/{lines[0].split(',')[0]}, first seen in {path}:1")
    ]


def test_a_missing_list_is_an_error(tmp_path: Path) -> None:
    root = make("deepchange", tmp_path)
    (root / "test-set-query-bbox.txt").unlink()
    expected = ("test-set-query-bbox.txt", None, "cannot be read: No such file or directory")
    assert found(read_deepchange(root), "error") == [expected]


def test_a_person_in_train_and_test_is_an_error(tmp_path: Path) -> None:
    root = make("ltcc", tmp_path)
    write_crop(root / "test/001_1_c4_000001.png")
    assert found(check_dataset(read_ltcc(root)), "error") == [
        (
            "001_1_c4_000001.png",
            None,
            f"person 001 is in both gallery and train ({root / 'train/001_1_c11_000150.png'})",
        )
    ]


def test_a_query_that_nothing_in_the_gallery_answers_is_a_warning(tmp_path: Path) -> None:
    root = make("prcc", tmp_path)
    write_crop(root / "rgb/test/B/009/cropped_rgb001.jpg")
    [(_, _, message)] = found(check_dataset(read_prcc(root)), "warning")
    assert message.startswith(
        "query rgb/test/B/009/cropped_rgb001.jpg: the gallery has person 009 under no camera other than B"
    )


def test_pictures_are_not_asked_one_by_one_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make("ltcc", tmp_path)
    asked: list[object] = []
    real = os.stat

    def counted(path: object, *arguments: object, **options: object) -> os.stat_result:
        asked.append(path)
        return real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", counted)
    check_dataset(read_ltcc(root))
    assert 1 <= len(asked) <= 4, "the root, and each folder once"
