"""Tracks as CVAT's XML and as JSON, valid and invalid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_tools.datasets import json_tracks
from tests.data.findings import found
from tests.data.made_footage import boxes_of, frames_of, make_gate, mot, read
from tests.data.made_videos import make_video
from tests.data.track_documents import coco, cvat, cvat_image, cvat_track, youtube_vis

BOX = (10.0, 12.0, 20.5, 40.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``gate.mp4``."""
    return make_gate(tmp_path)


def test_cvat_for_video(folder: Path) -> None:
    (folder / "gate.xml").write_text(cvat(cvat_track(0, range(5, 30)), cvat_track(7, range(5, 30), "car")))
    dataset = read(folder)
    [tracklet] = dataset.tracklets
    assert (tracklet.id, boxes_of(tracklet), frames_of(tracklet)) == ("gate/0", {BOX}, list(range(5, 29)))
    assert tracklet.origin == f"{folder / 'gate.xml'}:5"
    message = "24 of 48 boxes were dropped by class: car (24); set footage.classes to choose"
    assert ("gate.xml", None, message) in found(dataset, "warning")
    assert found(dataset, "error") == []


def test_cvat_for_images_with_tracks(folder: Path) -> None:
    (folder / "gate.XML").write_text(cvat(*(cvat_image(frame, 3, None) for frame in range(20))))
    dataset = read(folder)
    assert [(t.id, boxes_of(t), frames_of(t)) for t in dataset.tracklets] == [("gate/3", {BOX}, list(range(20)))]
    assert found(dataset, "warning")[0][2] == "20 of 40 boxes belong to no track (id -1 or empty) and were dropped"
    (folder / "gate.XML").write_text(cvat(*(cvat_image(frame, None) for frame in range(20))))
    [(_, _, message)] = found(read(folder), "error")
    assert message.startswith("none of its 20 boxes belongs to a track")


def test_the_size_that_a_document_tells_is_compared(tmp_path: Path) -> None:
    make_video(tmp_path / "gate.mp4", 60, 192, 128)
    (tmp_path / "gate.xml").write_text(cvat(cvat_track(0, range(30))))
    message = "its boxes are for 96x64 pixels, but the video has 192x128"
    assert found(read(tmp_path), "warning")[0] == ("gate.xml", None, message)


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (f"{BOMB}<annotations>&b;</annotations>", 1, "has a document type (<!DOCTYPE), expected CVAT's XML"),
        ("<annotations>\n<track>", 2, "is not XML: no element found"),
        ("<svg/>", 1, "begins with <svg>, expected <annotations>"),
        ("", 1, "is not XML: no element found"),
        ("<annotations>" + "<a>" * 200, 1, "has more than 100 nested elements"),
        (
            '<annotations><track id="1" label="person">\n<box frame="x" outside="0"/></track></annotations>',
            2,
            "frame is 'x'",
        ),
        (cvat(cvat_track(1, range(3), box="10,12,9,52")), 5, "xbr, ybr is 9, 52, expected more than xtl, ytl = 10, 12"),
        (cvat(cvat_track(1, range(3), box="10,12,nan,52")), 5, "xbr is 'nan', expected a finite number"),
        ("<annotations>\n<box/></annotations>", 2, "a box outside <track> and <image>"),
        ('<?xml version="1.0" encoding="martian"?><annotations/>', None, "cannot be read: unknown encoding: martian"),
    ],
)
def test_wrong_xml_is_named(folder: Path, text: str, line: int | None, message: str) -> None:
    (folder / "gate.xml").write_text(text)
    file, number, said = found(read(folder), "error")[0]
    assert (file, number) == ("gate.xml", line)
    assert said.startswith(message)


@pytest.mark.parametrize("track_key", ["instance_id", "track_id"])
@pytest.mark.parametrize("frame_key", ["frame_id", "frame_index", "no_frame"])
def test_coco_of_one_video(folder: Path, frame_key: str, track_key: str) -> None:
    (folder / "gate.json").write_text(coco(frame_key=frame_key, track_key=track_key))
    dataset = read(folder, minimum_confidence=0.5)
    assert [(t.id, boxes_of(t), frames_of(t)) for t in dataset.tracklets] == [("gate/3", {BOX}, list(range(60)))]
    assert found(dataset, "error") == []


def test_one_document_for_all_videos(tmp_path: Path) -> None:
    for name in ("north/a", "south/a", "b"):
        make_video(tmp_path / "videos" / f"{name}.mp4", 60)
    tracks = tmp_path / "tracks.json"
    tracks.write_text(coco(["north/a.mp4", "south/a", "b", "c"]))
    dataset = read(tmp_path / "videos", tracks=tracks)
    assert [tracklet.id for tracklet in dataset.tracklets] == ["b/3", "north/a/3", "south/a/3"]
    tracks.write_text(coco(["x", "y"]))
    errors = found(read(tmp_path / "videos", tracks=tracks), "error")
    assert errors[0][2] == "describes 2 videos, none of which is called 'b': 'x, y'"


def test_tubes(folder: Path) -> None:
    (folder / "gate.json").write_text(youtube_vis())
    dataset = read(folder)
    assert [(t.id, boxes_of(t), frames_of(t)[0]) for t in dataset.tracklets] == [("gate/3", {BOX}, 10)]


def test_a_list_of_boxes(folder: Path) -> None:
    rows = [
        {"x_min": "10", "y_min": 12, "x_max": 30.5, "y_max": 52, "tracker_id": 3, "class_id": 0, "frame_index": frame}
        for frame in range(20)
    ]
    (folder / "gate.json").write_text(json.dumps(rows))
    dataset = read(folder)
    assert [(t.id, boxes_of(t), frames_of(t)[0]) for t in dataset.tracklets] == [("gate/3", {BOX}, 0)]


def test_documents_yield_to_tables(folder: Path) -> None:
    """Cameras write JSON and XML about a video next to it."""
    (folder / "gate.json").write_text("{}")
    (folder / "gate.txt").write_text(mot(1, range(1, 11)))
    assert [tracklet.id for tracklet in read(folder).tracklets] == ["gate/1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON: Expecting property name"),
        ("[" * 100_000, "is nested too deeply"),
        ("3", "contains 3, expected an object"),
        ("{}", "has the keys '', expected annotations with images or videos, or a list of boxes"),
        ("[1]", "contains 1, expected an object"),
        ('{"annotations": 1, "images": []}', "annotations is 1, expected a list"),
        (
            '{"annotations": [], "images": [{"id": 1}]}',
            "images, entry 1: has no frame_id, and file_name None contains no number",
        ),
        (
            '{"annotations": [{"image_id": 1}], "images": [{"id": 1, "frame_id": 0}]}',
            "annotations, entry 1: bbox is None, expected [x, y, width, height]",
        ),
        (
            '{"annotations": [{"image_id": 1, "bbox": [1, 2, NaN, 4]}], "images": [{"id": 1, "frame_id": 0}]}',
            "annotations, entry 1: bbox is nan, expected a finite number",
        ),
        ('{"annotations": [{"video_id": 1}], "videos": [{"id": 1}]}', "annotations, entry 1: bboxes is None, expected"),
        ('[{"frame": ' + "9" * 5000 + "}]", "cannot be read: "),
    ],
)
def test_wrong_json_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "gate.json").write_text(text)
    file, _, said = found(read(folder), "error")[0]
    assert file == "gate.json"
    assert said.startswith(message)


def test_json_that_is_too_large_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "gate.json").write_text(coco())
    monkeypatch.setattr(json_tracks, "MOST_BYTES", 1000)
    [(_, _, message)] = found(read(folder), "error")
    assert message.startswith("has 0 MiB, expected at most 0 MiB")
