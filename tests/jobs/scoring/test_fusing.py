"""--fuse of evaluate.py, and its results applied to a gallery, without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from ccvid.retrieval.embedding.store import EmbedderDescription, EmbeddingStore, open_store
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.fusion.evidence_file import read_evidence
from ccvid.retrieval.fusion.fusion import Fusion
from ccvid.retrieval.gallery.decisions import read_decisions
from ccvid.retrieval.gallery.fused_search import FusedEvidence, nearest_of_blocks
from data_tools.clips import ClipOptions
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from data_tools.tracklet import Split
from ray_jobs import evaluate, score
from ray_jobs.cli import UsageError
from ray_jobs.scoring.gallery import GalleryRequest, find_queries, rank
from tests.method.fusion.made_evidence import Made, make

MADE = make(24, 1)
EMBEDDER = EmbedderDescription(
    model="a", dimensions=32, height=32, width=16, clip=ClipOptions(), resize_filter="bicubic", flip=False, bf16=False
)


def write_faces(path: Path, made: Made = MADE) -> Path:
    vectors = [None if hidden else face.tolist() for face, hidden in zip(made.face_ND, made.hidden_N, strict=True)]
    table = {
        "id": made.labels.ids,
        "embedding": vectors,
        "quality": made.quality_N,
        "model_fingerprint": ["f"] * len(vectors),
    }
    pq.write_table(pa.table(table), path)
    return path


def write_gait(path: Path, made: Made = MADE, share: float = 0.6) -> Path:
    """Scores of some pairs, which know a little."""
    random, person_N = np.random.default_rng(5), np.array(made.labels.person)
    query, entry = np.nonzero(random.uniform(size=(len(person_N), len(person_N))) < share)
    scores = 1.5 * (person_N[query] == person_N[entry]) + random.normal(size=len(query))
    ids = np.array(made.labels.ids)
    pq.write_table(pa.table({"query_id": ids[query], "gallery_id": ids[entry], "score": scores}), path)
    return path


def split_of(number: int) -> Split:
    return "query" if number % 3 == 0 else "gallery"


def write_bodies(path: Path, made: Made = MADE) -> Path:
    labels = made.labels
    columns = {
        "id": labels.ids,
        "person": labels.person,
        "clothes": labels.clothes,
        "camera": labels.camera,
        "split": [split_of(number) for number in range(len(labels))],
        "embedding": made.body_ND.tolist(),
        "model_fingerprint": [EMBEDDER.fingerprint] * len(labels),
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def evaluated(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    bodies = write_bodies(tmp_path / "bodies.parquet")

    def run(*fuse: Path) -> dict[str, Any]:
        flags = [word for path in fuse for word in ("--fuse", str(path))]
        evaluate.main(
            ["--embeddings", str(bodies), *flags, "--run.storage", str(tmp_path), "--run.name", "scored",
             "--score.report", "false", "--score.threshold.far", "0.05"]
        )  # fmt: skip
        assert not ray.is_initialized()
        return dict(json.loads((tmp_path / "scored" / "metrics.json").read_text()))

    return run


def test_evaluate_fuses_and_says_what_each_is_worth(
    evaluated: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = evaluated()
    faces, gait = write_faces(tmp_path / "face.parquet"), write_gait(tmp_path / "gait.parquet")
    capsys.readouterr()
    fused = evaluated(faces, gait)
    output = capsys.readouterr().out
    assert "face: 27 of 32 queries, 51 of 64 gallery entries\n" in output
    assert "own alone: mAP general " in output
    by_name = {row["name"]: row for row in fused["fused"]}
    assert list(by_name) == ["own", "face", "gait"]
    for name, figures in fused["protocols"].items():
        if name != "same_clothes":
            assert figures["map"] > max(row["map"][name] for row in by_name.values())
    own = {name: figures["map"] for name, figures in alone["protocols"].items()}
    assert by_name["own"]["map"] == pytest.approx(own, abs=0.01)  # but for ties beyond the ends of the curve
    fusion = Fusion.model_validate_json((tmp_path / "scored" / "fusion.json").read_text())
    thresholds = json.loads((tmp_path / "scored" / "thresholds.json").read_text())
    calibration = json.loads((tmp_path / "scored" / "calibration.json").read_text())
    assert fusion.fingerprint == thresholds["model"] == calibration["model"]
    assert fusion.names == ("face", "gait")
    assert "bodies.parquet, fused with face, gait (%)" in output
    evaluated()
    assert not (tmp_path / "scored" / "fusion.json").exists()


def test_evidence_of_other_tracklets_is_refused(evaluated: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["x"], "embedding": [[1.0]]}), tmp_path / "face.parquet")
    with pytest.raises(InputError, match=r"face\.parquet: says nothing of these tracklets, whose first query is 't0'"):
        evaluated(tmp_path / "face.parquet")
    assert not (tmp_path / "scored" / "metrics.json").exists()


def store_of(made: Made, folder: Path, parts: int) -> EmbeddingStore:
    store, labels = open_store(StorageFolder(str(folder)), EMBEDDER), made.labels
    for numbers in np.array_split(np.random.default_rng(0).permutation(len(labels)), parts):
        rows = [
            EmbeddingRow(labels.ids[n], None, None, labels.camera[n], split_of(n), {}, 1, "s") for n in numbers.tolist()
        ]
        store.add(EmbeddingTable(EmbeddingRows.of(rows), made.body_ND[numbers], EMBEDDER.fingerprint))
    return store


REQUEST = GalleryRequest(
    StorageFolder("/nowhere"), None, top=7, cameras=(), since=None, until=None, other_cameras=True, only_new=False
)


@pytest.mark.parametrize("parts", [1, 5])
def test_a_gallery_is_ranked_by_what_was_fitted(
    evaluated: Callable[..., dict[str, Any]], tmp_path: Path, parts: int
) -> None:
    paths = [write_faces(tmp_path / "face.parquet"), write_gait(tmp_path / "gait.parquet")]
    evaluated(*paths)
    other = make(9, 7)  # of tomorrow
    tomorrow = tmp_path / "tomorrow"
    tomorrow.mkdir()
    tables = read_evidence(
        [write_gait(tomorrow / "gait.parquet", other), write_faces(tomorrow / "face.parquet", other)]
    )
    decisions = read_decisions(StorageFolder(str(tmp_path / "scored")))
    fused = decisions.with_tables(tables)
    assert fused is not None
    store = store_of(other, tmp_path / "gallery", parts)
    queries = find_queries(REQUEST, store)
    matches, ranked = rank(queries, store, REQUEST, frozenset(), fused)
    assert ranked == 24
    whole = store.read()
    entries = whole.take(np.flatnonzero(whole.rows.is_in("split", ["gallery"])))
    distances = fused.distances(queries, entries)
    score_QG = 1 - distances.pairs(*(grid.ravel() for grid in np.indices(distances.shape))).reshape(distances.shape)
    for place, query in enumerate(queries.rows):
        allowed = [n for n, entry in enumerate(entries.rows) if entry.camera != query.camera]
        expected = sorted(allowed, key=lambda n: (-score_QG[place, n], entries.rows[n].id))[:7]
        found = matches.gallery_QK[place]
        assert [matches.gallery[n].id for n in found] == [entries.rows[n].id for n in expected]
        assert matches.score_QK[place].tolist() == score_QG[place, expected].tolist()
    said = decisions.add_probabilities(matches, model="bodies.parquet")
    assert said.probability_QK is not None
    assert ((said.probability_QK > 0) & (said.probability_QK < 1)).all()


def test_ties_are_in_gallery_order(evaluated: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    evaluated(write_faces(tmp_path / "face.parquet"))
    decisions = read_decisions(StorageFolder(str(tmp_path / "scored")))
    assert decisions.fusion is not None
    (faces,) = read_evidence([tmp_path / "face.parquet"])
    store = store_of(MADE, tmp_path / "gallery", 1)
    table = store.read()
    constant = decisions.fusion.only("none")
    distances = replace(FusedEvidence(constant, [faces]).distances(table, table))
    codes = np.arange(len(table.rows))
    found = nearest_of_blocks(distances, 3, [(codes, codes)])
    assert found.gallery_QK[0].tolist() == [1, 2, 3]
    assert found.gallery_QK[9].tolist() == [0, 1, 2]
    few = nearest_of_blocks(distances.take(np.arange(2), np.arange(2)), 3, [(codes[:2], codes[:2])])
    assert few.gallery_QK.tolist() == [[1, -1, -1], [0, -1, -1]]


def test_other_sources_than_those_fitted_are_refused(evaluated: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    faces, gait = write_faces(tmp_path / "face.parquet"), write_gait(tmp_path / "gait.parquet")
    evaluated(faces)
    decisions = read_decisions(StorageFolder(str(tmp_path / "scored")))
    with pytest.raises(InputError, match="scored: its scores are fused with face, but --fuse gives face, gait"):
        decisions.with_tables(read_evidence([faces, gait]))
    with pytest.raises(InputError, match="scored: its scores are fused with face, but --fuse gives none"):
        decisions.with_tables([])
    columns = pq.read_table(faces).drop_columns("model_fingerprint")
    (tmp_path / "new").mkdir()
    pq.write_table(columns, tmp_path / "new" / "face.parquet")
    assert decisions.with_tables(read_evidence([tmp_path / "new" / "face.parquet"])) is not None
    renamed = columns.append_column("model_fingerprint", pa.array(["g"] * len(columns)))
    pq.write_table(renamed, tmp_path / "new" / "face.parquet")
    with pytest.raises(InputError, match="scored: face was of another model than the one that --fuse gives"):
        decisions.with_tables(read_evidence([tmp_path / "new" / "face.parquet"]))
    damaged = json.loads((tmp_path / "scored" / "fusion.json").read_text())
    damaged["sources"][0]["weight"] += 0.1
    (tmp_path / "scored" / "fusion.json").write_text(json.dumps(damaged))
    with pytest.raises(InputError, match=r"fusion\.json: does not belong to thresholds\.json next to it"):
        read_decisions(StorageFolder(str(tmp_path / "scored")))


@pytest.mark.parametrize("more", [[], ["--decisions", "/nowhere", "--approximate"]])
def test_flags_that_do_not_go_together(more: list[str]) -> None:
    with pytest.raises(UsageError, match="--fuse needs --decisions, which say how to weigh it, and cannot be combined"):
        score.main(["--checkpoint", "/nowhere/m.onnx", "--fuse", "/nowhere/face.parquet", *more])
