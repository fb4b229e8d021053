"""Finding users' videos: links, loops, and which files are skipped or reported."""

from __future__ import annotations

from pathlib import Path

from data_tools.datasets.problems import Problem, ProblemLog
from data_tools.datasets.video_files import find_videos


def find(folder: Path) -> tuple[list[str], tuple[Problem, ...]]:
    log = ProblemLog()
    videos = [video.relative_to(folder).as_posix() for video in find_videos(folder, log)]
    return videos, log.problems()


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/deep/a.mp4").touch()
    footage = tmp_path / "footage"
    footage.mkdir()
    (footage / "north").symlink_to(tmp_path / "real")
    (tmp_path / "real/up").symlink_to(footage)
    videos, problems = find(footage)
    assert videos == ["north/deep/a.mp4"]
    [warning] = problems
    assert warning.severity == "warning"
    assert (warning.file, warning.message) == (
        str(footage / "north/up"),
        f"is the same folder as {footage} and was skipped",
    )


def test_two_links_to_one_folder_are_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.h264").touch()
    footage = tmp_path / "footage"
    footage.mkdir()
    for name in ("north", "south"):
        (footage / name).symlink_to(tmp_path / "real")
    videos, [warning] = find(footage)
    assert videos == ["north/a.h264"]
    assert "is the same folder" in warning.message


def test_what_lies_beside_videos_is_passed_over_and_what_may_be_one_is_reported(tmp_path: Path) -> None:
    for name in (
        "a.MP4",
        "._a.mp4",
        ".hidden.mp4",
        "a.THM",
        "a.LRV",
        "Thumbs.db",
        "a.txt",
        "a.json",
        "README",
        "a.jpg",
    ):
        (tmp_path / name).touch()
    assert find(tmp_path) == (["a.MP4"], ())
    for number in range(12):
        (tmp_path / f"{number:02}.dav").touch()
    [warning] = find(tmp_path)[1]
    assert warning.message.startswith("ignored 12 files whose suffix is not that of a video: 00.dav, 01.dav, ")
    assert warning.message.endswith("09.dav, …")


def test_a_folder_of_which_nothing_was_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    _, problems = find(tmp_path)
    assert [(problem.severity, problem.message) for problem in problems] == [
        ("warning", "is a broken link"),
        ("error", "contains no video file"),
    ]
