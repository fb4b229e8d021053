"""Checks that run on every data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_tools.datasets.checks import check_dataset
from data_tools.datasets.problems import Dataset, Problem, ProblemLog, list_problems, split_origin
from data_tools.errors import InputError
from data_tools.tracklet import FrameSource, ImageFrames, Split, Tracklet, VideoFrames
from tests.data.findings import found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "frames").mkdir()
    (tmp_path / "clip.mp4").write_bytes(b"")
    return tmp_path


def entry(folder: Path, line: int, split: Split, person: str | None, camera: str = "1") -> Tracklet:
    source = ImageFrames(folder / "frames", ("1.jpg",))
    return Tracklet(f"t{line}", person, "0", camera, split, source, (1,), origin=f"list.txt:{line}")


def test_a_sound_data_set_stays_as_it_is(folder: Path) -> None:
    tracklets = (
        entry(folder, 1, "train", "a"),
        entry(folder, 2, "query", "b"),
        entry(folder, 3, "gallery", "b", camera="2"),
        entry(folder, 4, "gallery", None),
        Tracklet("t5", None, None, "1", "gallery", VideoFrames(folder / "clip.mp4")),
    )
    dataset = Dataset("made", tracklets)
    assert check_dataset(dataset, ("train", "query", "gallery")) == dataset


def test_the_readers_problems_come_first(folder: Path) -> None:
    problem = Problem("warning", "list.txt", 9, "of the reader")
    dataset = check_dataset(Dataset("made", (entry(folder, 1, "train", None),), (problem,)))
    assert dataset.problems[0] == problem
    assert found(dataset, "error") == [("list.txt", 1, "training tracklet t1 has no person label")]


def test_two_tracklets_with_one_id_are_an_error(folder: Path) -> None:
    tracklet = entry(folder, 1, "train", "a")
    other = Tracklet("t1", "a", "1", "1", "train", tracklet.source, (1,), origin="list.txt:7")
    dataset = check_dataset(Dataset("made", (tracklet, other)))
    assert found(dataset, "error") == [("list.txt", 7, "duplicate tracklet id t1, first seen in list.txt:1")]


def test_an_identity_in_train_and_test_is_named_once(folder: Path) -> None:
    tracklets = (
        entry(folder, 1, "train", "a"),
        entry(folder, 2, "train", "a"),
        entry(folder, 3, "gallery", "a"),
        entry(folder, 4, "gallery", "a"),
    )
    dataset = check_dataset(Dataset("made", tracklets))
    assert found(dataset, "error") == [("list.txt", 3, "person a is in both gallery and train (list.txt:1)")]


@pytest.mark.parametrize(("person", "camera"), [("b", "1"), ("c", "2"), (None, "2")])
def test_a_query_without_a_gallery_match_is_reported(folder: Path, person: str | None, camera: str) -> None:
    tracklets = (entry(folder, 1, "query", "b", "1"), entry(folder, 2, "gallery", person, camera))
    dataset = check_dataset(Dataset("made", tracklets))
    [(file, line, message)] = found(dataset, "warning")
    assert (file, line) == ("list.txt", 1)
    assert message.startswith("query t1: the gallery has person b under no camera other than 1")
    assert dataset.tracklets == tracklets


def test_an_unlabelled_query_needs_no_match(folder: Path) -> None:
    assert check_dataset(Dataset("made", (entry(folder, 1, "query", None),))).problems == ()


def test_tracklets_without_frames_are_quarantined(folder: Path) -> None:
    video = folder / "clip.mp4"
    sources: list[FrameSource] = [
        ImageFrames(folder / "frames", ()),
        ImageFrames(folder / "gone", ("1.jpg",)),
        VideoFrames(video, (), ()),
        VideoFrames(folder / "gone.mp4"),
        VideoFrames(folder),
    ]
    tracklets = tuple(
        Tracklet(f"t{line}", "a", "0", "1", "train", source, origin=f"list.txt:{line}")
        for line, source in enumerate(sources, start=1)
    )
    dataset = check_dataset(Dataset("made", (*tracklets, entry(folder, 6, "train", "a"))))
    assert [tracklet.id for tracklet in dataset.tracklets] == ["t6"]
    assert found(dataset, "quarantine") == [
        ("list.txt", 1, "the tracklet has no frames"),
        ("list.txt", 2, f"the image folder {folder / 'gone'} is missing"),
        ("list.txt", 3, "the tracklet has no frames"),
        ("list.txt", 4, f"the video {folder / 'gone.mp4'} is missing"),
        ("list.txt", 5, f"the video {folder} is missing"),
    ]
    assert [p.tracklet for p in dataset.problems] == ["t1", "t2", "t3", "t4", "t5"]


def test_a_missing_split_is_reported_where_it_is_needed(folder: Path) -> None:
    dataset = Dataset("made", (entry(folder, 1, "train", "a"),))
    assert check_dataset(dataset, ["train"]).problems == ()
    lacking = check_dataset(dataset, ["train", "query"])
    assert found(lacking, "warning") == [("made", None, "the data set has no usable query tracklet")]


def test_all_errors_stand_in_one_message() -> None:
    problems = [Problem("error", "a.txt", line, "wrong") for line in (1, 2, 3)]
    warning = Problem("warning", "a.txt", None, "odd")
    dataset = Dataset("made", (), (*problems, warning))
    with pytest.raises(InputError) as raised:
        dataset.raise_on_errors(most=2)
    assert str(raised.value).splitlines() == [
        "data set made: fix 3 error(s) first:",
        "  error: a.txt:1: wrong",
        "  error: a.txt:2: wrong",
        "  … and 1 more",
    ]
    Dataset("made", (), (warning,)).raise_on_errors()
    assert list_problems([warning], 1) == "  warning: a.txt: odd"


def test_of_a_file_wrong_on_every_line_the_first_problems_are_kept_and_the_rest_counted() -> None:
    log = ProblemLog(most_per_file=2)
    for line in range(1, 6):
        log.error("a.txt", line, "wrong")
        log.quarantine("a.txt", line, "gone", f"t{line}")
    log.error("b.txt", 1, "wrong")
    errors = [str(problem) for problem in log.problems() if problem.severity == "error"]
    assert errors == [
        "error: a.txt:1: wrong",
        "error: a.txt:2: wrong",
        "error: b.txt:1: wrong",
        "error: a.txt: 3 more errors are not listed",
    ]
    assert sum(problem.severity == "quarantine" for problem in log.problems()) == 5


@pytest.mark.parametrize(
    ("origin", "place"),
    [
        ("a.txt:7", ("a.txt", 7)),
        ("C:\\a.txt:7", ("C:\\a.txt", 7)),
        ("a.mp4", ("a.mp4", None)),
        ("", ("", None)),
    ],
)
def test_split_origin(origin: str, place: tuple[str, int | None]) -> None:
    assert split_origin(origin) == place
