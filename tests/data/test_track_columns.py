"""Tables of boxes from trackers and their libraries: columns, separators, text encodings."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.datasets.text_tables import find_separator
from data_tools.datasets.track_columns import find_columns
from data_tools.errors import InputError
from tests.data.findings import found
from tests.data.made_footage import boxes_of, frames_of, make_gate, read

BOX = (10.0, 12.0, 20.5, 40.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``gate.mp4``."""
    return make_gate(tmp_path)


def table(header: str, row: str, frames: range = range(1, 61), mark: str = ",") -> str:
    """A table whose rows are ``row`` with ``{}`` for the frame; both are written with commas."""
    lines = [header, *(row.format(frame) for frame in frames)] if header else [row.format(frame) for frame in frames]
    return "".join(line.replace(",", mark) + "\n" for line in lines)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("frame,id,x,y,w,h,conf", "{},3,10,12,20.5,40,0.9"),
        ("x_min,y_min,x_max,y_max,class_id,confidence,tracker_id,frame_number", "10,12,30.5,52,0,0.9,3,{}"),
        ("frame,track_id,x1,y1,x2,y2,conf,class", "{},3,10,12,30.5,52,0.9,person"),
        ("frame,id,x1,y1,x2,y2,confidence,class,name", "{},3,10,12,30.5,52,0.9,0,person"),
        ("frame,track_id,label,xtl,ytl,xbr,ybr,outside_", "{},3,pedestrian,10,12,30.5,52,0"),
        ("FrameId,Id,X,Y,Width,Height,Confidence,ClassId,Visibility_", "{},3,10,12,20.5,40,0.9,1,1"),
        ("frame_no, Track ID ,bb_left,bb_top,bb_width,bb_height", "{},3,10,12,20.5,40"),
        ("Frame,Object.ID,bbox_left,bbox_top,bbox_right,bbox_bottom,Score", "{},3,10,12,30.5,52,0.9"),
        ("frame,id,cx,cy,w,h", "{},3,20.25,32,20.5,40"),
        ("frame,trackId,x_center,y_center,width,height", "{},3,20.25,32,20.5,40"),
        ("frame,id,x0,y0,x1,y1", "{},3,10,12,30.5,52"),
        (",frame,id,left,top,width,height", "17,{},3,10,12,20.5,40"),
        ("# frame,id,x,y,w,h", "{},3,10,12,20.5,40"),
    ],
)
@pytest.mark.parametrize("mark", [",", ";", "\t", ", "])
def test_usual_columns(folder: Path, header: str, row: str, mark: str) -> None:
    (folder / "gate.csv").write_text(table(header, row, mark=mark))
    dataset = read(folder)
    [tracklet] = dataset.tracklets
    assert (tracklet.id, boxes_of(tracklet), frames_of(tracklet)) == ("gate/3", {BOX}, list(range(60)))
    assert found(dataset, "error") == []


@pytest.mark.parametrize("row", ["{};3;10;12;20,5;40;0,9", "{} 3 10 12 20,5 40 0,9", "{}\t3\t10\t12\t20,5\t4e1\t0,9"])
@pytest.mark.parametrize("header", ["", "frame;id;x;y;w;h;conf"])
def test_decimal_commas(folder: Path, row: str, header: str) -> None:
    mark = next(mark for mark in ";\t " if mark in row)
    lines = [header.replace(";", mark)] * bool(header) + [row.format(frame) for frame in range(1, 61)]
    (folder / "gate.txt").write_text("\n".join(lines))
    [tracklet] = read(folder, minimum_confidence=0.5).tracklets
    assert boxes_of(tracklet) == {BOX}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings(folder: Path, encoding: str, end: str) -> None:
    text = "sep=;\nframe;id;x;y;w;h\n" + "".join(f"{frame};3;10;12;20,5;40\n" for frame in range(1, 61))
    (folder / "gate.CSV").write_bytes(text.replace("\n", end).encode(encoding))
    dataset = read(folder)
    assert [boxes_of(tracklet) for tracklet in dataset.tracklets] == [{BOX}]
    assert dataset.problems == ()


def test_text_cut_within_a_character_is_named(folder: Path) -> None:
    text = table("frame,id,x,y,w,h", "{},3,10,12,20.5,40")
    (folder / "gate.csv").write_bytes(text.encode("utf-16")[:-1])
    [(_, line, message)] = found(read(folder), "error")
    assert (line, message) == (61, "is not UTF-16 text, despite its byte order mark, from about here on")


@pytest.mark.parametrize(
    ("line", "mark"),
    [
        ("a,b", ","),
        ("a;b", ";"),
        ("a\tb c", "\t"),
        ("a b", " "),
        ("1, 1, 20, 10, 60, 100", ","),
        ("1 1 20,5 10 60 100", " "),
        ("1;1;20,5;10,5;60;100", ";"),
        ("frame, track id, x min", ","),
        ("one", ","),
    ],
)
def test_separators(line: str, mark: str) -> None:
    assert find_separator(line) == mark


@pytest.mark.parametrize(
    ("header", "unused"),
    [
        ("frame,id,x,y,w,h,visibility,occluded,time", ()),
        ("frame,id,x,y,w,h,det_prob", ("det_prob (not a known confidence name)",)),
        ("frame,id,track_id,x,y,w,h", ("id (the track is read from track_id)",)),
        ("frame,frame_index,id,x,y,w,h", ("frame_index (the frame is read from frame)",)),
        (
            "frame,id,x1,y1,x2,y2,w,h",
            ("w (the box is read from x1,y1,x2,y2)", "h (the box is read from x1,y1,x2,y2)"),
        ),
        ("frame,id,x,y,w,h,conf,score", ("score (the confidence is read from conf)",)),
        ("frame,id,x,y,w,h,flag", ("flag (a flag is only used together with class and visibility)",)),
    ],
)
def test_columns_that_look_useful_are_reported(header: str, unused: tuple[str, ...]) -> None:
    assert find_columns(header.split(",")).unused == unused


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,x,y,w,h", "the header lacks frame: "),
        ("frame,x,y,w,h", "the header lacks id: "),
        ("frame,id,bbox", "the header lacks a box"),
        ("frame,id,x,y,w,h,ID", "the header has both 'id' and 'ID', expected one of them"),
    ],
)
def test_headers_that_do_not_serve(header: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        find_columns(header.split(","))
    assert str(caught.value).startswith(message)


def test_unused_columns_are_a_warning(folder: Path) -> None:
    (folder / "gate.csv").write_text(table("frame,id,x,y,w,h,det_prob", "{},3,10,12,20.5,40,0.1"))
    dataset = read(folder)
    message = "unused columns: det_prob (not a known confidence name)"
    assert found(dataset, "warning") == [("gate.csv", 1, message)]
    [(_, _, message)] = found(read(folder, minimum_confidence=0.5), "error")
    assert message == "minimum_confidence 0.5 has no effect, because the file has no confidence column; remove it"


def test_minimum_confidence_needs_confidences(folder: Path) -> None:
    (folder / "gate.csv").write_text(table("frame,id,x,y,w,h,score", "{},3,10,12,20.5,40,0.1"))
    dataset = read(folder, minimum_confidence=0.5)
    assert dataset.tracklets == ()
    assert found(dataset, "warning")[0] == ("gate.csv", None, "60 of 60 boxes below confidence 0.5 were dropped")
    (folder / "gate.csv").write_text(table("", "{},3,10,12,20.5,40,1,1,1.0"))
    [(_, _, message)] = found(read(folder, minimum_confidence=0.5), "error")
    assert message.startswith("minimum_confidence 0.5 has no effect, because column 7 is the ground truth flag")


def test_boxes_without_a_track(folder: Path) -> None:
    rows = [
        f"{frame},{'3' if frame % 2 else missing},10,12,20.5,40" for frame, missing in enumerate(["", "-1"] * 30, 1)
    ]
    (folder / "gate.csv").write_text("\n".join(["frame,tracker_id,x,y,w,h", *rows]))
    dataset = read(folder)
    assert len(frames_of(dataset.tracklets[0])) == 30
    message = "30 of 60 boxes belong to no track (id -1 or empty) and were dropped"
    assert found(dataset, "warning")[0] == ("gate.csv", None, message)
    (folder / "gate.csv").write_text(table("frame,tracker_id,x,y,w,h", "{},-1,10,12,20.5,40"))
    [(_, _, message)] = found(read(folder), "error")
    assert message == "none of its 60 boxes belongs to a track (id -1 or empty): are these detections without tracking?"


def test_parquet_by_its_columns(folder: Path) -> None:
    columns = {
        "frame_number": list(range(1, 61)),
        "tracker_id": [3] * 60,
        "x_min": [10.0] * 60,
        "y_min": [12.0] * 60,
        "x_max": [30.5] * 60,
        "y_max": [52.0] * 60,
        "class_name": ["person"] * 30 + ["dog"] * 30,
        "confidence": [0.9] * 60,
    }
    pq.write_table(pa.table(columns), folder / "gate.PARQUET")
    dataset = read(folder, minimum_confidence=0.5)
    assert [(boxes_of(t), len(frames_of(t))) for t in dataset.tracklets] == [({BOX}, 30)]
    message = "30 of 60 boxes were dropped by class: dog (30); set footage.classes to choose"
    assert found(dataset, "warning") == [("gate.PARQUET", None, message)]


def test_corners_in_the_wrong_order_are_named(folder: Path) -> None:
    (folder / "gate.csv").write_text(table("frame,id,x1,y1,x2,y2", "{},3,50,12,20.5,40", range(1, 2)))
    [(_, line, message)] = found(read(folder), "error")
    assert (line, message) == (2, "x2 is '20.5', expected more than x1 = '50'; are these columns width and height?")
