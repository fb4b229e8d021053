"""Track files written anew: persons in place of or beside the tracks, all else as it was."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.datasets.problems import ProblemLog
from data_tools.datasets.track_files import read_track_file
from data_tools.datasets.track_rewriting import UNIDENTIFIED, Part, Way, rewrite_tracks
from data_tools.errors import InputError
from tests.data.made_footage import make_gate, mot, read

MOT = mot(3, range(1, 4)) + mot(8, range(2, 6)) + "5,-1,1,1,9,9,1,-1,-1,-1\n" + mot(4, range(9, 10))
"""Lines 1 to 3 of track 3, 4 to 7 of track 8, a box of no track, one of track 4."""
PARTS = {3: [Part(1, 70)], 8: [Part(4, 70), Part(6, 2)]}


def rewritten(tmp_path: Path, content: str, way: Way = "replace", suffix: str = ".txt", parts: object = PARTS) -> str:
    source, target = tmp_path / f"gate{suffix}", tmp_path / "new" / f"gate{suffix}"
    source.write_text(content)
    rewrite_tracks(source, target, parts, way)  # type: ignore[arg-type]
    return target.read_text()


def column(text: str, place: int) -> list[str]:
    return [line.split(",")[place] for line in text.splitlines()]


def test_persons_in_place_of_tracks(tmp_path: Path) -> None:
    new = rewritten(tmp_path, MOT)
    other = str(UNIDENTIFIED + 8)
    # Frame 2 and 3: track 8 may not be person 70, who is there already.
    assert column(new, 1) == ["70", "70", "70", other, other, "2", "2", "-1", str(UNIDENTIFIED + 4)]
    for place in (0, 2, 3, 4, 5, 6):
        assert column(new, place) == column(MOT, place)


def test_persons_beside_tracks(tmp_path: Path) -> None:
    new = rewritten(tmp_path, MOT, "beside")
    assert [line.rpartition(",")[0] for line in new.splitlines()] == MOT.splitlines()
    assert column(new, -1) == ["70", "70", "70", "-1", "-1", "2", "2", "-1", "-1"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables_with_a_header(mark: str, tmp_path: Path) -> None:
    names = ["x1", "y1", "x2", "y2", "frame", "note", "track_id"]
    rows = [["1.5", "2", "30", "60", str(frame), f'"a{mark} b"', "3"] for frame in (7, 6, 5)]
    content = "\n".join(mark.join(row) for row in [names, *rows]) + "\n"
    new = rewritten(tmp_path, content, suffix=".csv", parts={3: [Part(3, 9), Part(4, 5)]})
    # The parts begin in lines 3 and 4, which are frames 6 and 5.
    assert [line.rpartition(mark)[2] for line in new.splitlines()] == ["track_id", "9", "9", "5"]
    assert [line.rpartition(mark)[0] for line in new.splitlines()] == [
        line.rpartition(mark)[0] for line in content.splitlines()
    ]
    beside = rewritten(tmp_path, content, "beside", ".csv", {4: []})
    assert beside.splitlines() == [
        content.splitlines()[0] + f"{mark}person",
        *(f"{line}{mark}" for line in content.splitlines()[1:]),
    ]


def test_a_column_of_that_name_stays(tmp_path: Path) -> None:
    content = "frame,id,x,y,w,h,person\n1,3,1,1,20,40,Ann\n"
    new = rewritten(tmp_path, content, "beside", ".csv", {3: [Part(2, 5)]})
    assert new == "frame,id,x,y,w,h,person,person_2\n1,3,1,1,20,40,Ann,5\n"


def test_spaces_and_decimal_commas(tmp_path: Path) -> None:
    assert rewritten(tmp_path, "1 3 1,5 2 20 40\n2  3 1,5 2 20 40\n", parts={3: [Part(1, 6)]}) == (
        "1 6 1,5 2 20 40\n2 6 1,5 2 20 40\n"
    )


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.float64(), pa.uint16()])
def test_parquet(kind: pa.DataType, tmp_path: Path) -> None:
    columns = {"frame": [1, 2, 9], "id": pa.array([3, 3, None], kind), "x": [1.0] * 3, "y": [2.0] * 3, "w": [9.0] * 3}
    table = pa.table({**columns, "h": [20.0] * 3, "note": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "gate.parquet")
    for way, name, values in (("replace", "id", [5000, 5000, None]), ("beside", "person", [5000, 5000, None])):
        assert rewrite_tracks(tmp_path / "gate.parquet", tmp_path / "new.parquet", {3: [Part(1, 5000)]}, way) == 2  # type: ignore[arg-type]
        new = pq.read_table(tmp_path / "new.parquet")
        assert new[name].to_pylist() == values
        assert new.drop_columns([name]).equals(table.drop_columns([name] if way == "replace" else []))


def test_what_is_written_is_read_as_the_same_boxes(tmp_path: Path) -> None:
    folder = make_gate(tmp_path)
    (folder / "gate.txt").write_text(mot(7, range(1, 30)) + mot(9, range(31, 60)))
    tracklets = read(folder, maximum_length=10, minimum_length=4).tracklets
    parts: dict[int, list[Part]] = {}
    for number, tracklet in enumerate(tracklets, start=1):
        line = int(tracklet.origin.rpartition(":")[2])
        parts.setdefault(int(tracklet.attributes["track"]), []).append(Part(line, number))
    rewrite_tracks(folder / "gate.txt", tmp_path / "new.txt", parts, "replace")
    log = ProblemLog()
    file = read_track_file(tmp_path / "new.txt", log)
    assert file is not None
    assert log.problems() == ()
    for number, tracklet in enumerate(tracklets, start=1):
        assert [box.frame - 1 for box in file.tracks[number]] == list(tracklet.frame_index)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tracks in \.xml are not written anew"):
        rewritten(tmp_path, "<a/>", suffix=".xml")
    with pytest.raises(InputError, match="the header lacks frame"):
        rewritten(tmp_path, "id,x,y,w,h\n1,2,3,4,5\n", suffix=".csv")
    assert not (tmp_path / "new" / "gate.csv").exists()
    assert rewritten(tmp_path, "") == ""
