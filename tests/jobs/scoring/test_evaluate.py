"""Scoring given distances and features without Ray, and trained weights on a cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from ccvid.retrieval.embedding.table import read_embeddings, write_embeddings
from ccvid.retrieval.gallery.decisions import read_decisions
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from data_tools.errors import InputError
from data_tools.shard_index import ShardRows
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from ray_jobs import evaluate
from ray_jobs.cli import UsageError
from ray_jobs.scoring import evaluation, part_tasks, stored_retrieval
from ray_jobs.scoring.actors import cut_chunks
from ray_jobs.scoring.evaluation import name_after
from tests.jobs.head import ROOT, Head
from tests.jobs.scoring.test_stored_retrieval import shuffled, store_of
from tests.method.retrieval_oracle import loop_over_queries, mean

REFERENCE = Path(__file__).parents[2] / "method" / "reference" / "retrieval_metrics.npz"


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Checked by hand: see ``test_a_small_archive_by_hand``."""
    path = tmp_path / "small.npz"
    np.savez(
        path,
        distmat=[[0.1, 0.2, 0.3], [0.9, 0.5, 0.8], [0.1, 0.2, 0.3]],
        q_pids=["A", "A", "C"],
        g_pids=["A", "B", "A"],
        q_camids=[1, 1, 1],
        g_camids=[2, 2, 3],
        q_oids=["x", "y", "z"],
        g_oids=["x", "x", "y"],
    )
    return path


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """The content of metrics.json after the job, run in this process."""
    evaluate.main([*arguments, "--run.storage", str(tmp_path / "runs"), "--run.name", "scored"])
    assert not ray.is_initialized()
    return dict(json.loads((tmp_path / "runs" / "scored" / "metrics.json").read_text()))


def test_a_small_archive_by_hand(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocols = run(tmp_path, "--distances", str(given))["protocols"]
    expected = {  # mAP, mINP, top-1
        "general": (((1 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 2, 2 / 3, 0.5),  # ranks (1, 3) and (2, 3)
        "same_clothes": (0.75, 0.75, 0.5),  # the other match is junk: (1) and (2)
        "clothes_changing": (0.5, 0.5, 0.0),  # (2) and (2)
    }
    assert list(protocols) == list(expected)
    for name, (mean_precision, mean_penalty, top_1) in expected.items():
        assert protocols[name] == {
            "map": mean_precision,
            "minp": mean_penalty,
            "cmc": {"1": top_1, "5": 1.0, "10": 1.0, "20": 1.0},
            "queries": 3,
            "queries_without_match": 1,
        }
    output = capsys.readouterr().out
    assert "clothes-changing" in output
    assert "left out: same-location, different-location (no query tracklet has a location label)" in output
    folder = tmp_path / "runs" / "scored"
    assert output.endswith(f"results: {folder}\nreport: {folder}/report/index.html\n")
    files = {"metrics.json", "metrics.txt", "queries.parquet", "thresholds.json", "report"}
    assert {path.name for path in folder.iterdir()} == files
    assert pq.read_table(folder / "queries.parquet").num_rows == 9


@pytest.mark.parametrize("number", range(3))
def test_equals_the_released_numbers(number: int, tmp_path: Path) -> None:
    reference = np.load(REFERENCE)
    keys = {"pids": "person", "camids": "camera", "oids": "clothes"}
    labels = {
        f"{side[0]}_{key}": reference[f"{number}.{side}_{name}"]
        for side in ("query", "gallery")
        for key, name in keys.items()
    }
    np.savez(tmp_path / "d.npz", distmat=reference[f"{number}.distance"], **labels)
    protocols = run(tmp_path, "--distances", str(tmp_path / "d.npz"))["protocols"]
    for name in ("general", "same_clothes", "clothes_changing"):
        assert protocols[name]["map"] == pytest.approx(reference[f"{number}.{name}.map"], rel=1e-14)
        cmc = reference[f"{number}.{name}.cmc"]
        assert list(protocols[name]["cmc"].values()) == pytest.approx(cmc[[0, 4, 9, 19]], rel=1e-15)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_equals_plain_loops_where_distances_tie(kind: type[np.floating], tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    arrays: dict[str, Any] = {}
    sides = []
    for side, size in (("q", 15), ("g", 90)):
        person, camera, outfit, scale = (random.integers(0, most, size) for most in (6, 3, 2, 2))
        arrays |= {f"{side}_pids": person, f"{side}_camids": camera, f"{side}_oids": outfit, f"{side}_scale": scale}
        columns = [tuple(map(str, column.tolist())) for column in (person, camera, outfit, scale)]
        ids = tuple(f"{side}{row}" for row in range(size))
        sides.append(RetrievalLabels(ids, columns[0], columns[1], columns[2], {"scale": columns[3]}))
    matrix = (random.integers(0, 9, (15, 90)) / 10).astype(kind)
    np.savez(tmp_path / "d.npz", distmat=matrix, **arrays)
    protocols = run(tmp_path, "--distances", str(tmp_path / "d.npz"))["protocols"]
    assert list(protocols) == ["general", "same_clothes", "clothes_changing", "same_scale", "different_scale"]
    for name, found in protocols.items():
        matched = [f for f in loop_over_queries(matrix.tolist(), sides[0], sides[1], PROTOCOLS[name]) if f]
        assert found["map"] == mean([figure.average_precision for figure in matched])
        assert found["minp"] == mean([figure.inverse_negative_penalty for figure in matched])
        assert found["cmc"]["5"] == sum(figure.first_match_rank <= 5 for figure in matched) / len(matched)


def test_features_in_an_archive_and_in_a_table_score_alike(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    person, camera = random.integers(0, 5, 60), random.integers(0, 4, 60)
    feature = random.standard_normal((60, 7), np.float32)
    np.savez(
        tmp_path / "f.npz",
        qf=feature[:20],
        gf=feature[20:],
        q_pids=person[:20],
        g_pids=person[20:],
        q_camids=camera[:20],
        g_camids=camera[20:],
    )
    columns = {
        "id": list(range(60)),
        "person": person,
        "camera": camera,
        "split": ["query"] * 20 + ["gallery"] * 40,
        "embedding": list(feature),
    }
    pq.write_table(pa.table(columns), tmp_path / "f.parquet")
    archive, table = (
        run(tmp_path / suffix, "--embeddings", str(tmp_path / f"f.{suffix}")) for suffix in ("npz", "parquet")
    )
    assert archive["protocols"] == table["protocols"]
    assert list(archive["protocols"]) == ["general"]


@pytest.mark.parametrize("large", [False, True])
def test_a_gallery_scores_as_a_table_of_its_labelled_tracklets(tmp_path: Path, large: bool) -> None:
    store = store_of(tmp_path / "gallery", 200, 5)
    table = store.read()
    write_embeddings([table], tmp_path / "gallery.parquet")
    flags = ["--score.single_shot_draws", "2", "--score.report"]
    expected = run(tmp_path / "file", "--embeddings", str(tmp_path / "gallery.parquet"), *flags, "false")
    with (
        patch.object(part_tasks, "PAIRS_WORTH_SHARING", 1 if large else 10**9),
        patch.object(stored_retrieval, "on_cluster", shuffled(1)),
        patch.object(evaluation, "connect"),
    ):
        found = run(tmp_path, "--embeddings", str(store.folder), *flags, "true")
    for name in ("protocols", "left_out", "single_shot", "intervals"):
        assert found[name] == expected[name]
    assert (found["model"], found["embedder"]) == ("a", table.model)
    folder = tmp_path / "runs" / "scored"
    assert read_decisions(StorageFolder(str(folder))).model == table.model
    thresholds, others = (
        json.loads((place / "thresholds.json").read_text()) for place in (folder, tmp_path / "file" / "runs" / "scored")
    )
    assert thresholds == {**others, "model": table.model}
    assert (folder / "report" / "index.html").exists()


def test_protocols_of_ones_own_and_single_shot(given: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        """
        score:
          single_shot_draws: 5
          protocols:
            - {name: cameras_1_2, within: {camera: ["1", "2"]}}
            - {name: cameras_1_9, within: {camera: ["1", "9"]}}
        """
    )
    found = run(tmp_path, "--distances", str(given), "--recipe", str(recipe))
    assert found["protocols"]["cameras_1_2"]["map"] == 0.75  # ranks (1) and (2) among two entries
    assert found["left_out"]["cameras_1_9"] == "no tracklet has camera '9'"
    assert found["single_shot"]["draws"] == 5
    assert set(found["single_shot"]["protocols"]) | set(found["single_shot"]["left_out"]) == set(found["protocols"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], UsageError, "one of the arguments --distances --embeddings --checkpoint .* --standing is required"),
        (["--distances", "a", "--embeddings", "b"], UsageError, "not allowed with argument --distances"),
        (["--distances"], UsageError, "expected one argument"),
        (["--distances", "{}/none.npz"], InputError, "none.npz: No such file or directory"),
        (["--embeddings", "{}/none.parquet"], InputError, "none.parquet: not a readable Parquet file"),
        (["--embeddings", "{}"], InputError, "not an embedding store, no store.json in it"),
        (["--embeddings", "{}/small.npz"], InputError, "small.npz: no key qf, gf; found distmat"),
        (["--distances", "{}/strangers.npz"], InputError, "strangers.npz: none of the protocols can be scored"),
        (["--checkpoint", "{}/none"], InputError, "none"),
        (
            ["--distances", "{}/small.npz", "--score.protocols", '[{"name": "general"}]'],
            InputError,
            "score.protocols: duplicate name 'general'; already used: general",
        ),
    ],
)
def test_mistakes(given: Path, tmp_path: Path, arguments: list[str], error: type[InputError], message: str) -> None:
    np.savez(given.with_name("strangers.npz"), distmat=[[0.5]], q_pids=[1], g_pids=[2], q_camids=[1], g_camids=[2])
    with pytest.raises(error, match=message):
        run(tmp_path, *(argument.replace("{}", str(tmp_path)) for argument in arguments))
    assert not (tmp_path / "runs").exists()
    assert not ray.is_initialized()


def test_results_of_something_else_are_never_overwritten(given: Path, tmp_path: Path) -> None:
    run(tmp_path, "--distances", str(given))
    first = (tmp_path / "runs" / "scored" / "metrics.json").read_bytes()
    run(tmp_path, "--distances", str(given))  # the same again
    other = given.with_name("other.npz")
    other.write_bytes(given.read_bytes())
    with pytest.raises(InputError, match=r"scored: contains the scores of something else; choose another --run\.name"):
        run(tmp_path, "--distances", str(other))
    (tmp_path / "runs" / "scored" / "config.yaml").write_text("")
    with pytest.raises(InputError, match="scored: contains a training run"):
        run(tmp_path, "--distances", str(given))
    assert (tmp_path / "runs" / "scored" / "metrics.json").read_bytes() == first


def test_junk_and_distractors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "market.NPZ"
    np.savez(
        tmp_path / "market.npz",
        distmat=[[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]],
        q_pids=[1, -1],
        g_pids=[-1, 0, 1, 2],
        q_camids=[1, 1],
        g_camids=[2, 2, 2, 2],
    )
    (tmp_path / "market.npz").rename(path)
    metrics = run(tmp_path, "--distances", str(path))
    general = metrics["protocols"]["general"]
    assert (general["map"], general["queries"]) == (1 / 2, 1), "behind the distractor alone"
    assert len(metrics["warnings"]) == 4
    assert f"warning: {path}: 1 of 4 gallery entries left out as junk (person -1)" in capsys.readouterr().out
    general = run(tmp_path, "--distances", str(path), "--keep-junk")["protocols"]["general"]
    assert (general["map"], general["queries"]) == ((1 / 3 + 1) / 2, 2)
    features = tmp_path / "features.NPZ"
    given = dict(np.load(path))
    given.pop("distmat")
    np.savez(tmp_path / "features.npz", qf=np.eye(2, 4), gf=np.eye(4), **given)
    (tmp_path / "features.npz").rename(features)
    evaluate.main(["--embeddings", str(features), "--run.storage", str(tmp_path / "runs"), "--run.name", "features"])


def test_similarities_are_asked_about(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = dict(np.load(given))
    np.savez(given, **{**arrays, "distmat": -arrays["distmat"], "g_pids": ["A", "B", "B"]})
    run(tmp_path, "--distances", str(given))
    assert "of a random order: are these similarities? Distances are expected" in capsys.readouterr().out


def test_results_are_named_after_what_is_scored(given: Path, tmp_path: Path) -> None:
    evaluate.main(["--distances", str(given), "--run.storage", str(tmp_path / "runs")])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["small-scores"]
    assert name_after("../my distances (v2)") == "my-distances-v2-scores"
    assert name_after("距离") == "given-scores"


def test_a_mistake_is_one_line_and_help_tells_the_keys(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "ray_jobs" / "evaluate.py")]
    (tmp_path / "bad.npz").write_text("no archive")
    failed = subprocess.run([*command, "--distances", str(tmp_path / "bad.npz")], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr == f"error: {tmp_path / 'bad.npz'}: not a .npz archive written by numpy.savez\n"
    shown = subprocess.run([*command, "--help"], check=True, capture_output=True, text=True).stdout
    words = " ".join(shown.split())
    assert "--distances FILE.npz" in words
    assert "Equal distances rank in gallery order" in words
    assert all(key in words for key in ("distmat", "q_pids", "g_camids", "q_oids", "q_location", "qf, gf"))


def test_results_side_by_side(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "--distances", str(given))
    other = given.with_name("other.npz")
    archive = dict(np.load(given))
    np.savez(other, **archive | {"distmat": archive["distmat"] ** 2})  # the same order
    evaluate.main(["--distances", str(other), "--run.storage", str(tmp_path / "runs"), "--run.name", "squared"])
    folders = [str(tmp_path / "runs" / name) for name in ("scored", "squared")]
    capsys.readouterr()
    compare = ["--compare", *folders, "--run.storage", str(tmp_path / "runs")]
    evaluate.main(compare)
    output = capsys.readouterr().out
    assert "95 % interval" in output
    found = json.loads((tmp_path / "runs" / "squared-against-scored" / "comparison.json").read_text())
    for comparison in found["compared"][folders[1]].values():
        assert comparison["differences"]["map"]["difference"]["value"] == 0
        assert (comparison["better"], comparison["worse"]) == (0, 0)
    evaluate.main(compare)  # the same again
    with pytest.raises(InputError, match="scored: contains something else"):
        evaluate.main([*compare, "--run.name", "scored"])
    with pytest.raises(InputError, match="duplicate folder"):
        evaluate.main(["--compare", folders[0], folders[0]])
    with pytest.raises(InputError, match="at least two folders"):
        evaluate.main(["--compare", folders[0]])
    with pytest.raises(InputError, match=r"none: no queries\.parquet; give folders of results"):
        evaluate.main(["--compare", folders[0], str(tmp_path / "none")])


def test_chunks_depend_on_the_data_alone() -> None:
    assert cut_chunks([5, 5, 5, 20, 1, 1], 10) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert cut_chunks([3], 10) == [slice(0, 1)]
    clips = [1 + row % 7 for row in range(100)]
    chunks = cut_chunks(clips, 16)
    assert [row for chunk in chunks for row in range(100)[chunk]] == list(range(100))
    assert all(sum(clips[chunk]) >= 16 for chunk in chunks[:-1])


@pytest.mark.slow
def test_a_checkpoint_scores_as_its_training_did(head: Head, tiny_recipe: Path, tmp_path: Path) -> None:
    """One worker and two, from the run folder; a mistake with a released file gives one line."""

    def expect_success(done: subprocess.CompletedProcess[str]) -> str:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
        return done.stdout

    recipe = ["--recipe", str(tiny_recipe), "--score.single_shot_draws", "2", "--score.clips_per_batch", "2"]
    expect_success(head.run("train.py", *recipe))
    trained = tmp_path / "runs" / "tiny"
    expected = json.loads((trained / "metrics.json").read_text())
    tables = []
    for workers in ("1", "2"):
        name = f"again-{workers}"
        flags = ["--checkpoint", str(trained), "--compute.workers", workers, "--run.name", name]
        flags += ["--score.report", str(workers == "1").lower()]
        output = expect_success(head.run("evaluate.py", *recipe, *flags))
        folder = tmp_path / "runs" / name
        assert "tracklets/s" in output
        assert "left 0:00:00" in output
        pictures = f"pictures: {folder / 'rankings_clothes_changing.svg'}"
        assert (pictures in output, (folder / "report").exists()) == (workers == "1",) * 2
        found = json.loads((folder / "metrics.json").read_text())
        assert found["protocols"] == expected["protocols"]
        assert found["single_shot"] == expected["single_shot"]
        assert (found["model"], found["embedder"]) == (expected["model"], expected["embedder"])
        tables.append(read_embeddings(folder / "embeddings.parquet", model=expected["embedder"]))
    assert tables[0].rows == tables[1].rows
    assert np.array_equal(tables[0].embedding_ND, tables[1].embedding_ND)
    own = read_embeddings(trained / "embeddings.parquet")
    assert own.rows == tables[0].rows
    np.testing.assert_allclose(tables[0].embedding_ND, own.embedding_ND, rtol=1e-4, atol=1e-6)

    refused = head.run("evaluate.py", *recipe, "--checkpoint", str(trained), "--run.name", "tiny")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {trained}: contains a training run")
    assert json.loads((trained / "metrics.json").read_text()) == expected

    scored = head.run("evaluate.py", "--embeddings", str(trained / "embeddings.parquet"), *recipe, "--run.name", "own")
    expect_success(scored)
    assert json.loads((tmp_path / "runs" / "own" / "metrics.json").read_text())["protocols"] == expected["protocols"]


def test_a_set_without_labels_has_no_metrics(tiny_shards: Path) -> None:
    """Found before anything is embedded; so it is for each data set of the referee."""
    store = ShardFolder(tiny_shards)
    query, gallery = evaluation.labelled_sides(store, "shards")
    assert query
    assert gallery
    store.rows = ShardRows.of(replace(row, person=None) for row in store.rows)
    with pytest.raises(InputError, match=r"^shards: no tracklet has a person label, .*ray_jobs/score\.py"):
        evaluation.labelled_sides(store, "shards")
