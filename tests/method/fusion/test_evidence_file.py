"""Evidence from Parquet files: what is known and what is missing, and every wrong row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccvid.retrieval.fusion.evidence import PairEvidence, TrackletEvidence
from ccvid.retrieval.fusion.evidence_file import read_evidence
from ccvid.retrieval.ranking.distances import CosineDistances
from data_tools.errors import InputError

QUERIES, ENTRIES = ["a", "b"], ["c", "a", "d"]
EMBEDDINGS: dict[str, Any] = {
    "id": ["d", "x", "a", "c"],
    "embedding": [[1.0, 0.0], [0.0, 1.0], [1.0, 2.0], None],
    "quality": [0.5, None, 0.25, 0.75],
}
SCORES: dict[str, Any] = {
    "query_id": ["b", "a", "a", "x"],
    "gallery_id": ["d", "a", "c", "c"],
    "score": [0.5, -1.5, None, 3.0],
    "quality": [1, 0, 2, 3],
}


def write(path: Path, columns: dict[str, Any], **changes: Any) -> Path:
    chosen = {name: values for name, values in (columns | changes).items() if values is not None}
    pq.write_table(pa.table(chosen), path)
    return path


def test_embeddings_of_some_tracklets(tmp_path: Path) -> None:
    (table,) = read_evidence([write(tmp_path / "face.parquet", EMBEDDINGS, model_fingerprint=["f"] * 4)])
    assert (table.name, table.model) == ("face", "f")
    evidence = table.between(QUERIES, ENTRIES)
    assert isinstance(evidence, TrackletEvidence)
    assert evidence.coverage == "1 of 2 queries, 2 of 3 gallery entries"
    score_AB, quality_AB = evidence.tile(np.arange(2), np.arange(3))
    vector_a, vector_d = np.array([[1.0, 2]]), np.array([[1.0, 2], [1, 0]])
    cosine = 1 - CosineDistances(vector_a, vector_d).pairs(np.zeros(2, np.int64), np.arange(2))
    np.testing.assert_array_equal(score_AB, [[np.nan, *cosine], [np.nan] * 3])
    np.testing.assert_array_equal(quality_AB, [[np.nan, 0.25, 0.25], [np.nan] * 3])
    for query in range(2):
        for entry in range(3):
            found = evidence.pairs(np.array([query]), np.array([entry]))
            assert np.array_equal(found.score[0], score_AB[query, entry], equal_nan=True)
    assert [pair.tolist() for pair in evidence.some_pairs(10, np.random.default_rng(0))] == [[0, 0], [1, 2]]


def test_scores_of_some_pairs(tmp_path: Path) -> None:
    (table,) = read_evidence([write(tmp_path / "gait.parquet", SCORES)])
    evidence = table.between(QUERIES, ENTRIES)
    assert isinstance(evidence, PairEvidence)
    assert evidence.coverage == "2 of 6 pairs"
    score_AB, quality_AB = evidence.tile(np.arange(2), np.arange(3))
    np.testing.assert_array_equal(score_AB, [[np.nan, -1.5, np.nan], [np.nan, np.nan, 0.5]])
    np.testing.assert_array_equal(quality_AB, [[np.nan, 0, np.nan], [np.nan, np.nan, 1]])
    part = evidence.tile(np.array([1]), np.array([2, 0]))
    np.testing.assert_array_equal(part.score, [[0.5, np.nan]])
    assert [pair.tolist() for pair in evidence.some_pairs(10, np.random.default_rng(0))] == [[0, 1], [1, 2]]


def test_other_tracklets_are_not_known(tmp_path: Path) -> None:
    paths = write(tmp_path / "face.parquet", EMBEDDINGS), write(tmp_path / "gait.parquet", SCORES)
    for table in read_evidence(paths):
        evidence = table.between(["q"], ["r", "s"])
        assert evidence.coverage == ""
        assert np.isnan(evidence.tile(np.arange(1), np.arange(2)).score).all()
        assert np.isnan(evidence.pairs(np.zeros(3, np.int64), np.ones(3, np.int64)).score).all()
        assert [len(side) for side in evidence.some_pairs(9, np.random.default_rng(0))] == [0, 0]


def test_integers_and_large_ids_are_text(tmp_path: Path) -> None:
    path = write(tmp_path / "face.parquet", {"id": [7, 12], "embedding": [[1.0], [2.0]]})
    (table,) = read_evidence([path])
    assert table.between(["12"], ["7"]).coverage == "1 of 1 queries, 1 of 1 gallery entries"


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        (EMBEDDINGS, {"id": None}, "no column id; expected id and embedding, or query_id, gallery_id and score"),
        (SCORES, {"score": None}, "no column score; expected id and embedding, or"),
        (EMBEDDINGS, {"id": ["a", "b", "a", "c"]}, "row 2: 'a' is also in row 0"),
        (EMBEDDINGS, {"id": ["a", None, "b", "c"]}, "row 1 has no id"),
        (EMBEDDINGS, {"embedding": [[1.0], [2.0], [0.0], None]}, "row 2: the largest absolute value .* use null where"),
        (
            EMBEDDINGS,
            {"embedding": [[1.0], [np.nan], [1.0], None]},
            "row 1: the largest absolute value of the embedding is",
        ),
        (EMBEDDINGS, {"embedding": [[1.0], [1.0, 2.0], [1.0], None]}, "row 1: embedding of 2 values, expected 1"),
        (EMBEDDINGS, {"embedding": [1.0, 2.0, 3.0, 4.0]}, "column embedding is double, expected a list of floats"),
        (EMBEDDINGS, {"quality": [0.5, -1, 0.2, 0]}, "row 1: quality is -1, expected at least 0"),
        (EMBEDDINGS, {"quality": ["good"] * 4}, "column quality is string, expected numbers"),
        (EMBEDDINGS, {"model_fingerprint": ["f", "f", "g", "f"]}, "holds evidence of 2 models; give each its own file"),
        (SCORES, {"score": [1.0, np.inf, 2.0, 3.0]}, "row 1: score is inf, expected a finite number, or null"),
        (
            SCORES,
            {"query_id": ["b", "b", "b", "b"], "gallery_id": ["d", "a", "d", "c"]},
            "row 2: 'b' and 'd' is also in row 0",
        ),
        (SCORES, {"gallery_id": ["d", "a", "c", None]}, "row 3 has no gallery_id"),
    ],
)
def test_wrong_files(tmp_path: Path, columns: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "face.parquet", columns, **changes)
    with pytest.raises(InputError, match=rf"^{path}: {message}"):
        read_evidence([path])


def test_names_are_distinct(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    paths = [write(folder / "face.parquet", EMBEDDINGS) for folder in (tmp_path, tmp_path / "more")]
    with pytest.raises(InputError, match=r"face\.parquet: the name 'face' is taken; files to fuse need distinct names"):
        read_evidence(paths)
    with pytest.raises(InputError, match="the name 'own' is taken"):
        read_evidence([write(tmp_path / "own.parquet", EMBEDDINGS)])
    with pytest.raises(InputError, match=r"none\.parquet: "):
        read_evidence([tmp_path / "none.parquet"])
