"""Another's network in ONNX and another's faces, from evaluate.py to score.py, on a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from data_tools.shards import ShardFolder
from tests.jobs.breaking import expect_success
from tests.jobs.conftest import write_tiny_recipe
from tests.jobs.head import Head

pytestmark = pytest.mark.slow

CARD = {
    "name": "Linear",
    "height": 32,
    "width": 16,
    "colours": "BGR",
    "range": 255,
    "mean": [103.5, 116.3, 123.7],
    "std": [57.4, 57.1, 58.4],
    "layout": "NHWC",
}


def write_network(folder: Path) -> Path:
    """One linear layer that sees a frame at a time, four of them in every batch."""
    weights = np.random.default_rng(0).normal(size=(32 * 16 * 3, 12)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["features"]),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [4, 32, 16, 3])
    found = helper.make_tensor_value_info("features", TensorProto.FLOAT, [4, 12])
    graph = helper.make_graph(nodes, "linear", [given], [found], [numpy_helper.from_array(weights, "weights")])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "linear.onnx"
    )
    (folder / "linear.yaml").write_text(yaml.safe_dump(CARD))
    return folder / "linear.onnx"


def write_faces(shards: Path, path: Path) -> Path:
    rows, random = ShardFolder(shards).rows, np.random.default_rng(1)
    face_of = {person: random.normal(size=8) for person in sorted({row.person or "" for row in rows})}
    faces = [face_of[row.person or ""] + 0.3 * random.normal(size=8) for row in rows]
    vectors = [None if random.uniform() < 0.2 else face.tolist() for face in faces]
    pq.write_table(pa.table({"id": [row.id for row in rows], "embedding": vectors}), path)
    return path


def test_from_evaluation_to_a_gallery(head: Head, tiny_shards: Path, tmp_path: Path) -> None:
    network, faces = write_network(tmp_path), write_faces(tiny_shards, tmp_path / "face.parquet")
    flags = ["--recipe", str(write_tiny_recipe(tmp_path, tiny_shards)), "--checkpoint", str(network)]
    flags += ["--fuse", str(faces), "--score.threshold.far", "0.2"]
    expect_success(head.run("evaluate.py", *flags, "--run.name", "fused"))
    fused = tmp_path / "runs" / "fused"
    metrics = json.loads((fused / "metrics.json").read_text())
    maps = {row["name"]: row["map"]["general"] for row in metrics["fused"]}
    assert metrics["protocols"]["general"]["map"] > maps["own"]
    assert "Linear of linear.onnx, fused with face (%)" in (fused / "metrics.txt").read_text()
    embedded = pq.read_table(fused / "embeddings.parquet")
    assert set(embedded["clip_count"].to_pylist()) == {6}  # every frame, one at a time

    expect_success(head.run("score.py", *flags, "--run.name", "ranked", "--decisions", str(fused), "--top", "3"))
    table = pq.read_table(tmp_path / "runs" / "ranked" / "matches.parquet")
    scores = np.array(table["score"].to_pylist())
    assert np.isfinite(scores).all()
    assert scores.max() > 1  # log-likelihood ratios, not cosines
    person_of = {row.id: row.person for row in ShardFolder(tiny_shards).rows}
    right = [
        person_of[row["query_id"]] == person_of[row["gallery_id"]] for row in table.to_pylist() if row["rank"] == 1
    ]
    assert np.mean(right) > 0.5
