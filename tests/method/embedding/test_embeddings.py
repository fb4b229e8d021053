"""Pooling of clips, and the embedding table: what is written can be read, and errors name what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ccvid.retrieval.embedding.table import (
    ClipPool,
    EmbeddingRow,
    EmbeddingRows,
    EmbeddingTable,
    read_embeddings,
    shared_codes,
    write_embeddings,
)
from ccvid.retrieval.ranking.labels import RetrievalLabels
from data_tools.errors import InputError
from data_tools.parquet_files import FEW_ROWS

ROWS = (
    EmbeddingRow("a/1", "7", "red", "c1", "query", {"scale": "l", "location": "in"}, 3, "shard-0"),
    EmbeddingRow("a/2", "7", None, "c2", "gallery", {"scale": "m"}, 1, "shard-0"),
    EmbeddingRow("ü/$3", None, None, "c2", "gallery", {}, 12, "shard-1"),
)
TABLE = EmbeddingTable(EmbeddingRows.of(ROWS), np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4), "model-1")


def assert_equal(table: EmbeddingTable, expected: EmbeddingTable) -> None:
    assert (table.rows, table.model) == (expected.rows, expected.model)
    assert table.embedding_ND.dtype == np.float32
    assert np.array_equal(table.embedding_ND, expected.embedding_ND)


def others_table(path: Path, **changes: Any) -> Path:
    """A minimal table as other programs may write it, with some columns changed or left out."""
    columns: dict[str, Any] = {
        "id": ["x", "y"],
        "person": [7, 8],
        "camera": [1, 2],
        "split": ["query", "gallery"],
        "embedding": [[0.5, 1.0], [2.0, 3.0]],
        **changes,
    }
    pq.write_table(pa.table({name: column for name, column in columns.items() if column is not None}), path)
    return path


def pool(clip_feature_ND: torch.Tensor, tracklet_N: torch.Tensor, *batches: slice) -> torch.Tensor:
    clips = ClipPool(4, 5)
    for batch in batches:
        clips.add(clip_feature_ND[batch], tracklet_N[batch])
    assert clips.clip_count_T.tolist() == [2, 2, 4, 1]
    return clips.embeddings()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_pooling_equals_the_mean_of_each_tracklet_normalised(kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    clip_feature_ND = torch.randn((9, 5), generator=generator).to(kind)
    tracklet_N = torch.tensor([2, 0, 1, 2, 2, 0, 1, 2, 3])
    pooled = pool(clip_feature_ND, tracklet_N, slice(0, 4), slice(4, 9))
    assert pooled.dtype == torch.float32
    for tracklet in range(4):
        mean = clip_feature_ND[tracklet_N == tracklet].double().mean(dim=0)
        torch.testing.assert_close(pooled[tracklet], (mean / mean.norm()).float(), rtol=1e-6, atol=0)

    order = torch.randperm(9, generator=generator)
    assert torch.equal(pool(clip_feature_ND[order], tracklet_N[order], slice(0, 9)), pooled)


def test_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "embeddings.parquet"
    write_embeddings([TABLE], path)
    assert_equal(read_embeddings(path, model="model-1"), TABLE)
    assert pq.read_schema(path).field("embedding").type == pa.list_(pa.float32(), 4)
    assert [file.name for file in path.parent.iterdir()] == ["embeddings.parquet"]


def test_parts_and_labels() -> None:
    part = TABLE.part("gallery")
    assert list(part.rows) == list(ROWS[1:])
    assert np.array_equal(part.embedding_ND, TABLE.embedding_ND[1:])
    labels = RetrievalLabels.from_rows(ROWS[:2])
    assert labels.person == ("7", "7")
    assert labels.attributes == {"location": ("in", None), "scale": ("l", "m")}
    assert labels.column("clothes") == ("red", None)
    assert labels.column("weather") == (None, None)
    with pytest.raises(InputError, match=r"tracklet ü/\$3 has no person label"):
        RetrievalLabels.from_rows(part.rows)


@pytest.mark.parametrize("value_type", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float16(), 2)])
def test_tables_of_others_need_little(tmp_path: Path, value_type: pa.DataType) -> None:
    values = [[np.float16(0.5), np.float16(1.0)], [np.float16(2.0), np.float16(3.0)]]
    path = others_table(tmp_path / "others.parquet", embedding=pa.array(values, value_type))
    expected = (
        EmbeddingRow("x", "7", None, "1", "query", {}, 1, ""),
        EmbeddingRow("y", "8", None, "2", "gallery", {}, 1, ""),
    )
    assert_equal(
        read_embeddings(path), EmbeddingTable(EmbeddingRows.of(expected), np.array([[0.5, 1], [2, 3]], np.float32), "")
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": None}, "no column camera; found id, person, split, embedding"),
        ({"camera": ["c", None]}, "row 1 has no camera"),
        ({"id": ["x", "x"]}, r"row 1 \(x\): duplicate id, first seen in row 0"),
        ({"split": ["query", "test"]}, r"row 1 \(y\): split 'test', expected one of train, query, gallery"),
        ({"person": [["7"], ["8"]]}, "column person is list<.*>, expected text"),
        ({"embedding": [[0.5, 1.0], [2.0]]}, "row 1: embedding of 1 values, expected 2"),
        ({"embedding": [[0.5, 1.0], None]}, "row 1: embedding of None values, expected 2"),
        ({"embedding": [[0.5, np.nan], [2.0, 3.0]]}, r"row 0 \(x\): the embedding holds NaN or infinity"),
        ({"embedding": [["a"], ["b"]]}, "column embedding is list<.*>, expected a list of floats"),
        ({"embedding": [0.5, 1.0]}, "column embedding is double, expected a list of floats"),
        ({"model_fingerprint": ["m", "n"]}, "embeddings of 2 models in one table: m, n"),
        ({"attributes": ["a", "b"]}, "column attributes is string, expected maps of text"),
        ({"clip_count": [1.5, 2.0]}, "column clip_count is double, expected integers"),
        ({"clip_count": [1, None]}, "row 1: clip_count is None, expected at least 1"),
        ({"model_fingerprint": ["n", "n"]}, "embeddings of model 'n', expected model 'm'"),
    ],
)
def test_bad_tables(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = others_table(tmp_path / "others.parquet", **changes)
    model = "m" if "model_fingerprint" in changes else None
    with pytest.raises(InputError, match=f"^{path}: {message}"):
        read_embeddings(path, model=model)


def test_a_null_inside_an_embedding_is_found(tmp_path: Path) -> None:
    path = others_table(tmp_path / "others.parquet", embedding=[[0.5, None], [2.0, 3.0]])
    with pytest.raises(InputError, match=r"row 0 \(x\): the embedding holds NaN or infinity"):
        read_embeddings(path)


def test_files_that_are_no_table(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    write_embeddings([TABLE], whole)
    half = tmp_path / "half.parquet"
    half.write_bytes(whole.read_bytes()[:-100])
    for path in (half, tmp_path / "absent.parquet", tmp_path):
        with pytest.raises(InputError, match=f"^{path}: not a readable Parquet file"):
            read_embeddings(path)
    empty = tmp_path / "empty.parquet"
    pq.write_table(pq.read_table(whole).slice(0, 0), empty)
    with pytest.raises(InputError, match="the table has no rows"):
        read_embeddings(empty)


def test_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.parquet"
    write_embeddings([TABLE], path)
    broken = replace(TABLE, embedding_ND=np.full((3, 4), np.inf, np.float32))
    with pytest.raises(InputError, match=r"row 0 \(a/1\): the embedding holds NaN or infinity"):
        write_embeddings([broken], path)
    full = OSError(28, "No space left on device")
    with patch("os.fsync", side_effect=full), pytest.raises(InputError, match=r"cannot be written: .*No space left"):
        write_embeddings([TABLE.part("gallery")], path)
    assert_equal(read_embeddings(path), TABLE)
    assert [file.name for file in tmp_path.iterdir()] == ["embeddings.parquet"]
    with pytest.raises(InputError, match="cannot be written"):
        write_embeddings([TABLE], path / "below.parquet")


def test_a_small_table_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path, count = tmp_path / "bomb.parquet", 10 * FEW_ROWS
    ids = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["x"]))
    pq.write_table(pa.table(dict.fromkeys(("id", "person", "camera", "split", "embedding"), ids)), path)
    assert path.stat().st_size < count
    with pytest.raises(InputError, match=rf"bomb\.parquet: {count} rows in \d+ bytes, expected at least one byte"):
        read_embeddings(path)


def test_text_that_is_none_is_refused(tmp_path: Path) -> None:
    path = others_table(tmp_path / "others.parquet")
    table = pq.read_table(path)
    bad = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xff\xfe"))
    pq.write_table(table.set_column(table.column_names.index("person"), "person", bad), path)
    with pytest.raises(InputError, match=r"others\.parquet: not a readable Parquet file: .*UTF8"):
        read_embeddings(path)


def test_rows_are_columns_that_look_like_a_sequence() -> None:
    rows = EmbeddingRows.of(ROWS)
    assert len(rows) == len(ROWS)
    assert list(rows) == list(ROWS)
    assert [rows[number] for number in (0, 2, -1)] == [ROWS[0], ROWS[2], ROWS[-1]]
    assert list(rows[1:]) == list(ROWS[1:])
    assert list(rows.take([2, 0])) == [ROWS[2], ROWS[0]]
    assert list(rows + rows.take([1])) == [*ROWS, ROWS[1]]
    assert rows == EmbeddingRows.of(ROWS)
    assert rows != rows.take([1, 0, 2])
    assert rows.is_in("camera", ["c2", "nowhere"]).tolist() == [False, True, True]
    assert rows.is_in("person", ["7"]).tolist() == [True, True, False]
    assert rows.attribute("location").to_pylist() == ["in", None, None]
    with pytest.raises(IndexError):
        rows[3]


def test_shared_codes_agree_where_the_text_does() -> None:
    rows, others = EmbeddingRows.of(ROWS), EmbeddingRows.of([ROWS[2], ROWS[0]])
    first, second = shared_codes(rows.text("person"), others.text("person"))
    assert (first[:, None] == second).tolist() == [[False, True], [False, True], [True, False]]
    assert first[2] == second[0] == -1
    first, second = shared_codes(rows.text("id"), others.text("id"))
    assert (first[:, None] == second).sum() == 2
