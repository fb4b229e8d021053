"""Track files: MOT text, CSV and Parquet, valid and invalid."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.findings import found
from tests.data.made_footage import make_gate, mot, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``gate.mp4``."""
    return make_gate(tmp_path)


def test_mot_text_csv_and_parquet_say_the_same(folder: Path) -> None:
    text = mot(1, range(1, 11), "1.5,2,20,40", ",0.9")
    tables = {"txt": folder / "gate.txt", "csv": folder / "gate.csv", "parquet": folder / "gate.parquet"}
    names = "frame,id,x,y,w,h,conf"
    tables["txt"].write_text(text)
    tables["csv"].write_text(f"{names}\n{text}")
    columns = zip(*(map(float, line.split(",")) for line in text.splitlines()), strict=True)
    table = pa.table(dict(zip(names.split(","), map(list, columns), strict=True)))
    pq.write_table(table.set_column(0, "frame", table["frame"].cast(pa.int32())), tables["parquet"])

    several = read(folder)
    assert several.tracklets == ()
    assert found(several, "error")[0][2].startswith("has several track files: ")
    read_alone = [read(folder / "gate.mp4", tracks=path).tracklets for path in tables.values()]
    assert len(read_alone[0]) == 1
    assert read_alone[0] == read_alone[1] == read_alone[2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,1,2,3,4", "has 5 columns, expected frame,id,x,y,w,h,conf: '1,1,2,3,4'"),
        ("0,1,2,3,10,20,1", "frame 0 is before the first of the video's 60 frames, which is 1"),
        ("-1,1,2,3,10,20,1", "frame is '-1', expected an integer of at least 0"),
        ("1.5,1,2,3,10,20,1", "frame is '1.5', expected an integer of at least 0"),
        ("9" * 6000 + ",1,2,3,10,20,1", "frame is '99999"),
        ("99999999999999999999,1,2,3,10,20,1", "frame is '99999999999999999999', expected an integer"),
        ("61,1,2,3,10,20,1", "frame 61 is beyond the video's 60 frames"),
        ("1,-2,2,3,10,20,1", "id is '-2', expected an integer of at least 0"),
        ("1,anna,2,3,10,20,1", "id is 'anna', expected a finite number"),
        ("1,1,nan,3,10,20,1", "x is 'nan', expected a finite number"),
        ("1,1,2,inf,10,20,1", "y is 'inf', expected a finite number"),
        ("1,1,2,3,-10,20,1", "w is '-10', expected more than 0 pixels"),
        ("1,1,2,3,10,0,1", "h is '0', expected more than 0 pixels"),
        ("1,1,2,3,1_0,20,1", "w is '1_0', expected a finite number"),
        ("1,1,2,3,10,20,high", "conf is 'high', expected a finite number"),
        (
            "1,1,96,3,10,20,1",
            "box x, y, w, h = (96.0, 3.0, 10.0, 20.0) lies outside the picture of 96x64 pixels",
        ),
        ("1,1,-1e308,3,10,20,1", "box x, y, w, h = (-1e+308, 3.0, 10.0, 20.0) lies outside"),
        ("10,9,2,3,10,20,1", "duplicate box of track 9 in frame 10, first seen in line 1"),
        ("\x07", r"has control characters, expected plain text: '\x07'"),
    ],
)
def test_a_wrong_line_is_named(folder: Path, line: str, message: str) -> None:
    (folder / "gate.txt").write_text(f"{mot(9, range(10, 20))}\n{line}\n")
    dataset = read(folder, minimum_confidence=0.0, first_frame=1)
    [(file, number, text)] = found(dataset, "error")
    assert (file, number) == ("gate.txt", 12)
    assert text.startswith(message)
    assert [tracklet.id for tracklet in dataset.tracklets] == ["gate/9"], "the other lines are read"


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", None, "has no header"),
        (b"frame,id,x,y,w\n", 1, "the header lacks a box (x,y,w,h or x1,y1,x2,y2): "),
        (b"frame,id,x,y,w,h,h\n", 1, "the header has an empty or duplicate column name"),
        (b"frame,id,x,y,w,h\n1,2,3\n", 2, "has 3 columns, expected 6 as in the header"),
        (b'frame,id,x,y,w,h\n1,1,2,3,10,"2\n', 2, "is not CSV: unexpected end of data"),
        (b"frame,id,x,y,w,h\n\n1,1,2,3,10,,\n", 3, "has 7 columns"),
    ],
)
def test_a_wrong_csv_is_named(folder: Path, content: bytes, line: int | None, message: str) -> None:
    (folder / "gate.csv").write_bytes(content)
    [(file, number, text)] = found(read(folder), "error")
    assert (file, number) == ("gate.csv", line)
    assert text.startswith(message)


def test_a_wrong_parquet_file_is_named(folder: Path) -> None:
    path = folder / "gate.parquet"
    columns: dict[str, list[object]] = {name: [1] for name in ("frame", "id", "x", "y", "w")}
    wrong: list[tuple[dict[str, list[object]], int | None, str]] = [
        (
            columns,
            None,
            "the header lacks a box (x,y,w,h or x1,y1,x2,y2): 'frame,id,x,y,w'",
        ),
        (columns | {"h": ["2"]}, None, "column h has type string, expected numbers"),
        (columns | {"h": [float("nan")]}, 1, "h is nan, expected a finite number"),
        (columns | {"h": pa.array([None], pa.int64())}, 1, "h is None, expected a finite number"),
    ]
    for table, row, message in wrong:
        pq.write_table(pa.table(table), path)
        assert found(read(folder), "error") == [("gate.parquet", row, message)]
    path.write_bytes(b"PAR1 and then something else PAR1")
    assert found(read(folder), "error")[0][2].startswith("not a readable Parquet file: ")
