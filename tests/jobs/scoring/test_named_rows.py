"""Rows that name somebody leave CSV, lines of JSON and Parquet, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_jobs.scoring.named_rows import Named, without_rows

ANNA = Named(frozenset({"gate/1", "17"}), frozenset({"Anna Lind", "0042"}))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("id,n\ngate/1,5\ngate/12,5\n", "id,n\ngate/12,5\n"),
        ("id;n\r\ngate/2;5\r\n gate/1 ;5", "id;n\r\ngate/2;5\r\n"),
        ('\ufefftext,id\n"two\nlines",gate/1\n"two\nlines",gate/2\n', '\ufefftext,id\n"two\nlines",gate/2\n'),
        ("first,verdict\ngate/2,Anna Lind\ngate/3,Anna\n", "first,verdict\ngate/3,Anna\n"),
        ("person,score\n0042,1\n42,0042\n", "person,score\n42,0042\n"),  # a number only where persons are
        ("a,b\n1,2,17\n1\n\n", "a,b\n1\n\n"),
        ("", ""),
    ],
)
def test_lines_of_csv(before: str, after: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(before.encode())
    removed, content = without_rows(path, ANNA)
    assert content.decode() == after
    assert removed == (before != after)


def test_bytes_that_are_no_text_and_no_table_stay(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"id,x\n\xff\xfe,1\ngate/1,\xff\n")
    assert without_rows(path, ANNA) == (1, b"id,x\n\xff\xfe,1\n")
    path.write_bytes(b'id\n"' + b"x" * 140_000 + b"\ngate/1 told\nother\n")  # a field larger than csv takes
    assert without_rows(path, ANNA)[0] == 1


def test_lines_of_json(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    kept = [{"id": "gate/10"}, {"merged": [17, 42]}, {"score": "0042"}, ["gate"], None]
    gone = [{"id": "gate/1"}, {"a": [{"b": ["x", "gate/1"]}]}, {"person_name": "0042"}, {"note": "Anna Lind"}]
    torn = ['{"id": "gate/1"', '{"id": "gate/2"']
    lines = [*map(json.dumps, (*kept, *gone)), *torn]
    path.write_text("\n".join(lines))
    assert without_rows(path, ANNA) == (
        5,
        "".join(f"{json.dumps(each)}\n" for each in kept).encode() + b'{"id": "gate/2"',
    )


def test_rows_of_parquet_leave_with_what_only_they_had(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    coded = pa.array(["Anna Lind", "Bo", None, "Bo"]).dictionary_encode()
    table = pa.table(
        {
            "id": ["gate/1", "gate/2", None, "gate/3"],
            "person": coded,
            "members": [["gate/1"], ["gate/2"], [], ["gate/2", "gate/1"]],
            "number": [17, 17, 17, 17],
            "embedding": pa.array([[17.0, 1.0]] * 4, pa.list_(pa.float32(), 2)),
            "labels": pa.array([{"camera": "gate"}] * 4),
            "attributes": pa.array(
                [[("from", "gate/2")]] * 3 + [[("from", "gate/1")]], pa.map_(pa.string(), pa.string())
            ),
        }
    ).replace_schema_metadata({"model": "m"})
    pq.write_table(table, path)
    table = pq.read_table(path)
    removed, content = without_rows(path, ANNA)
    assert removed == 2
    path.write_bytes(content)
    found = pq.read_table(path)
    assert found.schema.equals(table.schema, check_metadata=True)
    assert found.to_pylist() == table.slice(1, 2).to_pylist()
    assert b"Anna" not in content
    assert without_rows(path, ANNA)[0] == 0


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        ("duplicate tracklet id gate/1 in one batch", True),
        ("holds a tracklet 'gate/1' from other shards", True),
        ("gate/1", True),
        ("duplicate tracklet id gate/12 in one batch", False),
        ("/data/Anna Lind/walk.mp4: cut off", True),
        ("/data/Annabel Lindqvist/walk.mp4", False),
        ("row 0042 is damaged", False),
    ],
)
def test_messages_that_name_somebody(text: str, is_named: bool) -> None:
    assert ANNA.in_text(text) is is_named
    assert not Named(frozenset(), frozenset()).in_text(text)
