"""Classes in track files: persons are kept if it is certain which objects are persons."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.findings import found
from tests.data.made_footage import make_gate, mot, read

TRUTH = (
    mot(1, range(1, 11), rest=",1,1,0.9")
    + mot(2, range(1, 11), rest=",0,1,0.9")
    + mot(3, range(1, 11), rest=",0,3,1")
    + mot(4, range(1, 11), rest=",1,7,0")
    + mot(5, range(1, 11), rest=",0,7,0.5")
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``gate.mp4``."""
    return make_gate(tmp_path)


def tracks(folder: Path, text: str, **options: object) -> list[int]:
    (folder / "gate.txt").write_text(text)
    dataset = read(folder, **options)
    assert found(dataset, "error") == []
    return [int(tracklet.attributes["track"]) for tracklet in dataset.tracklets]


@pytest.mark.parametrize(
    ("classes", "kept"),
    [(None, [1, 4]), (["1"], [1]), (["pedestrian", "Car"], [1, 3]), ([7], [4, 5]), ("all", [1, 2, 3, 4, 5])],
)
def test_mot_ground_truth(folder: Path, classes: object, kept: list[int]) -> None:
    assert tracks(folder, TRUTH, classes=classes) == kept


def test_what_is_left_out_is_counted(folder: Path) -> None:
    (folder / "gate.txt").write_text(TRUTH)
    message = (
        "30 of 50 boxes were dropped by class or flag: 1 pedestrian (10), 3 car (10), 7 static person (10); "
        "set footage.classes to choose"
    )
    assert found(read(folder), "warning")[0] == ("gate.txt", None, message)


@pytest.mark.parametrize(
    "rest",
    [
        ",1,-1,-1,-1",  # results of MOTChallenge
        ",0,-1,-1,-1",  # with a confidence of 0, which is not a flag
        ",0.9,-1,-1",
        ",1,1.5,-3.25,0",  # a position in the world (MOT15)
        ",0,1,-1",  # one class
        ",0.7,0,-1,-1",
        ",0.7",
        "",
    ],
)
def test_results_of_trackers_are_taken_whole(folder: Path, rest: str) -> None:
    assert tracks(folder, mot(1, range(1, 11), rest=rest) + mot(2, range(1, 11), rest=rest)) == [1, 2]


@pytest.mark.parametrize("others", ["0,2", "1,3", "1,0", "2"])
@pytest.mark.parametrize("rest", [",-1", ",-1,-1"])
def test_numbers_alone_are_asked_about(folder: Path, others: str, rest: str) -> None:
    kinds = others.split(",")
    text = "".join(mot(int(kind), range(1, 11), rest=f",0.9,{kind}{rest}") for kind in kinds)
    (folder / "gate.txt").write_text(text)
    dataset = read(folder)
    [(file, _, message)] = found(dataset, "error")
    counted = ", ".join(f"{kind} (10)" for kind in sorted(kinds))
    assert file == "gate.txt"
    assert message.startswith(f"has boxes of classes {counted}, but it is not known which are persons; choose")
    assert tracks(folder, text, classes=kinds[:1]) == [int(kinds[0])]
    assert tracks(folder, text, classes="all") == sorted(map(int, kinds))


def test_names_tell_persons(folder: Path) -> None:
    rows = [
        f"{frame},{track},10,12,20,40,{name}"
        for track, name in enumerate(["Person", "car", "person", ""])
        for frame in range(1, 11)
    ]
    (folder / "gate.csv").write_text("\n".join(["frame,id,x,y,w,h,class_name", *rows]))
    dataset = read(folder)
    assert [tracklet.id for tracklet in dataset.tracklets] == ["gate/0", "gate/2"]
    message = "20 of 40 boxes were dropped by class: no class (10), car (10); set footage.classes to choose"
    assert found(dataset, "warning")[0] == ("gate.csv", None, message)
    [(_, _, message)] = found(read(folder, classes=["bus"]), "error")
    assert message.startswith(
        "has no boxes of class bus (footage.classes); its classes are no class (10), Person (10), "
    )


def test_names_beside_ground_truth(tmp_path: Path) -> None:
    folder = make_gate(tmp_path)
    (folder / "gate" / "gt").mkdir(parents=True)
    (folder / "gate" / "gt" / "labels.txt").write_text("helmet\nperson\n")
    truth = mot(1, range(1, 11), rest=",1,1,1") + mot(2, range(1, 11), rest=",1,2,1")
    (folder / "gate" / "gt" / "gt.txt").write_text(truth)
    assert [tracklet.id for tracklet in read(folder).tracklets] == ["gate/2"]


def test_classes_of_a_file_without_any_are_an_error(folder: Path) -> None:
    (folder / "gate.txt").write_text(mot(1, range(1, 11)))
    [(_, _, message)] = found(read(folder, classes=["1"]), "error")
    assert message == "has no classes, so footage.classes has no effect; remove it"
    assert tracks(folder, mot(1, range(1, 11)), classes="all") == [1]
