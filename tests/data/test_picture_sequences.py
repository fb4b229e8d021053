"""MOTChallenge's sequences: pictures instead of a video."""

from __future__ import annotations

import io
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
from PIL import Image

from data_tools.crops import CropOptions, read_tracklets
from data_tools.datasets.checks import check_dataset
from data_tools.errors import UnreadableSourceError
from data_tools.tracklet import Tracklet
from data_tools.video import make_table, read_frames
from tests.data.findings import found
from tests.data.made_footage import boxes_of, frames_of, mot, read
from tests.data.made_videos import make_video
from tests.data.picture_sequences import INFO, make_sequence


def greys(tracklet: Tracklet) -> list[int]:
    [(_, content)] = read_tracklets([tracklet], CropOptions(format="source"))
    assert not isinstance(content, UnreadableSourceError), content
    data = bytes(content.data())
    crops = [data[start:end] for start, end in zip(content.offsets, content.offsets[1:], strict=False)]
    return [round(float(np.asarray(Image.open(io.BytesIO(crop))).mean())) for crop in crops]


@pytest.mark.parametrize("info", [INFO, None])
def test_a_sequence_is_a_video(tmp_path: Path, info: str | None) -> None:
    make_sequence(tmp_path / "MOT17-02.v2", info=info)
    make_video(tmp_path / "gate.mp4")
    (tmp_path / "gate.txt").write_text(mot(5, range(1, 11)))
    dataset = check_dataset(read(tmp_path))
    assert [problem for problem in dataset.problems if problem.severity != "warning"] == []
    tracklet, other = dataset.tracklets
    assert (tracklet.id, other.id) == ("MOT17-02.v2/1", "gate/5")
    assert (frames_of(tracklet), boxes_of(tracklet)) == (list(range(20)), {(10.0, 12.0, 20.0, 40.0)})
    assert greys(tracklet) == list(range(10, 210, 10))
    assert tracklet.attributes["end_seconds"] == ("1.900" if info else "0.760")


def test_the_folder_of_a_sequence_alone(tmp_path: Path) -> None:
    folder = make_sequence(tmp_path / "MOT17-02")
    tracks = tmp_path / "results"
    tracks.mkdir()
    (tracks / "MOT17-02.txt").write_text(mot(7, range(5, 15), rest=",0.9,-1,-1,-1"))
    assert [tracklet.id for tracklet in read(folder).tracklets] == ["MOT17-02/1"]
    [tracklet] = read(folder, tracks=tracks).tracklets
    assert (tracklet.id, greys(tracklet)) == ("MOT17-02/7", list(range(50, 150, 10)))


@pytest.mark.parametrize("pictures", [True, False])
def test_a_recording_that_is_there_as_pictures_and_as_a_video_is_read_once(tmp_path: Path, pictures: bool) -> None:
    folder = make_sequence(tmp_path / "seq")
    make_video(folder / "seq.mp4")
    if not pictures:
        rmtree(folder / "img1")
    dataset = check_dataset(read(tmp_path))
    assert {problem.severity for problem in dataset.problems} == {"warning"}
    [message] = [problem.message for problem in dataset.problems if "the sequence's pictures" in problem.message]
    if pictures:
        assert message == "the sequence's pictures are read, and not the 1 video(s) beside them"
    else:
        assert message.startswith("1 video(s) are read in place of the sequence's pictures: ")
        assert message.endswith("img1: cannot be listed: No such file or directory")
    [tracklet] = dataset.tracklets
    assert (tracklet.id, frames_of(tracklet)) == ("seq/1", list(range(20)))
    [(_, content)] = read_tracklets([tracklet], CropOptions())
    assert not isinstance(content, UnreadableSourceError), content


def test_frames_are_the_numbers_in_names(tmp_path: Path) -> None:
    folder = make_sequence(tmp_path / "seq", range(3, 23, 2), suffix=".JPG")
    [tracklet] = read(folder).tracklets
    assert frames_of(tracklet) == list(range(10)), "places in the sequence"
    assert greys(tracklet) == list(range(30, 230, 20))
    (folder / "gt" / "gt.txt").write_text(mot(1, range(1, 11), rest=",1,1,1"))
    [(_, line, message)] = found(read(folder), "error")
    assert line == 1
    assert message.startswith(
        "frame 1 is not among the sequence's 10 pictures; the same holds for 5 more of the file's 10 boxes"
    )
    [tracklet] = read(folder, first_frame=1).tracklets
    assert greys(tracklet) == list(range(30, 230, 20)), "the file counts the pictures"


def test_pictures_are_upright_as_opencv_shows_them(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    folder = make_sequence(tmp_path / "seq", range(1, 3))
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    for number in (1, 2):
        Image.fromarray(pixels).save(folder / "img1" / f"{number:06d}.png", exif=exif)
    table = make_table(folder)
    assert (table.width, table.height, table.count) == (64, 96, 2)
    [(place, frame)] = read_frames(folder, [1], table)
    shown = cv2.imread(str(folder / "img1" / "000002.png"))
    assert place == 1
    assert np.array_equal(frame, shown[:, :, ::-1])


def test_what_is_wrong_with_a_sequence_is_named(tmp_path: Path) -> None:
    folder = make_sequence(tmp_path / "seq")
    pictures = folder / "img1"

    def reason() -> str:
        [problem] = [problem for problem in read(folder).problems if problem.severity == "quarantine"]
        return problem.message.replace(str(folder), "SEQ")

    (folder / "seqinfo.ini").write_text("imDir=img1")
    assert reason().startswith("SEQ/seqinfo.ini: cannot be read: ")
    (folder / "seqinfo.ini").write_text(INFO.replace("=img1", "=../other"))
    assert reason() == "SEQ/seqinfo.ini: imDir is '../other', expected a folder within the sequence's folder"
    (folder / "seqinfo.ini").write_text(INFO.replace("=10", "=nan"))
    assert reason() == "SEQ/seqinfo.ini: frameRate is nan, expected frames per second"
    (folder / "seqinfo.ini").write_text(INFO)
    (pictures / "1.png").write_bytes(b"")
    assert reason() == "SEQ/img1: pictures '000001.png' and '1.png' have the same number"
    (pictures / "1.png").rename(pictures / "one.png")
    assert reason() == "SEQ/img1: picture 'one.png', expected a name with a number: 000001.jpg"
    (pictures / "one.png").unlink()
    (pictures / "000001.png").write_bytes(b"no picture")
    assert reason().startswith("SEQ/img1/000001.png: cannot be read: ")
    for picture in pictures.iterdir():
        picture.unlink()
    assert reason().startswith("SEQ/img1: contains no pictures (")


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    folder = make_sequence(tmp_path / "seq")
    [tracklet] = read(folder).tracklets
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "img1" / "000005.png")
    [(_, content)] = read_tracklets([tracklet], CropOptions())
    assert isinstance(content, UnreadableSourceError)
    assert str(content) == f"{folder}/img1/000005.png: 32x32 pixels, expected 96x64 as the picture before it"
    (folder / "img1" / "000005.png").write_bytes(b"no picture")
    [(_, content)] = read_tracklets([tracklet], CropOptions())
    assert str(content).startswith(f"{folder}/img1/000005.png: cannot be read: ")
    (folder / "img1" / "000005.png").unlink()
    [(_, content)] = read_tracklets([tracklet], CropOptions())
    assert str(content) == f"{folder}: the folder has changed since its pictures were counted"
