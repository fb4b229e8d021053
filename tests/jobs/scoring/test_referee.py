"""Several checkpoints on several data sets in one table, and where models stand, scored in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ccvid import model_cost
from ccvid.config import Recipe
from ccvid.retrieval.embedding.embed import embed_tracklets
from ccvid.retrieval.embedding.table import EmbeddingTable
from ccvid.retrieval.ranking import controls
from ccvid.retrieval.ranking.scoring import score_embeddings
from ccvid.retrieval.report.mosaic import read_hiding
from ccvid.retrieval.report.stored_pictures import StoredPictures
from ccvid.retrieval.results import write_scores
from data_tools.errors import InputError
from data_tools.shard_cache import open_shards
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from ray_jobs import evaluate
from ray_jobs.cli import UsageError
from ray_jobs.scoring import referee
from ray_jobs.scoring.embedding import UsedModel
from ray_jobs.scoring.evaluation import labelled_sides
from tests.jobs.head import Head
from tests.method.test_trained_model import checkpoint
from tests.s3_server import S3Server

Asked = list[tuple[str, str]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Pairs are scored by this process, without a cluster; the checkpoint and the folder of each."""
    done: Asked = []

    def score_here(used: UsedModel, recipe: Recipe, source: StorageFolder, folder: StorageFolder) -> None:
        done.append((source.name, folder.name))
        recipe, shards = used.applied_to(recipe), str(recipe.data.shards)
        store = open_shards(shards, recipe.data.cache)
        query, gallery = (_embed(used, recipe, store, rows) for rows in labelled_sides(store, shards))
        with folder.filled(last="metrics.json") as path:
            write_scores(
                path,
                score_embeddings(query, gallery, recipe.score),
                query,
                gallery.rows,
                [gallery],
                StoredPictures([store], read_hiding(recipe.report)),
                recipe.score,
                weights=used.fingerprint,
                title="scored here",
                facts={"source": str(source), "shards": shards, "dataset": store.manifest.dataset},
            )

    monkeypatch.setattr(referee, "score_model", score_here)
    monkeypatch.setattr(referee, "connect", lambda: None)
    monkeypatch.setattr(model_cost, "ENOUGH_SECONDS", 0.0)
    return done


def _embed(used: UsedModel, recipe: Recipe, store: ShardFolder, rows: Sequence[int]) -> EmbeddingTable:
    embedding_RD, count_R = embed_tracklets(used.computing(recipe), store, rows, recipe)
    return EmbeddingTable.of(store, rows, embedding_RD, count_R, used.fingerprint)


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """Two checkpoints with random weights."""
    folders = [tmp_path / "models" / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        checkpoint(folder, seed=seed)
    return [str(folder) for folder in folders]


def judge(tmp_path: Path, *arguments: str, recipe: Path) -> dict[str, Any]:
    """The content of referee.json after the job."""
    flags = ["--recipe", str(recipe), "--run.storage", str(tmp_path / "runs"), "--run.name", "judged"]
    evaluate.main([*arguments, *flags, "--data.verify_checksums", "false", "--score.threshold.draws", "100"])
    return read(tmp_path)


def read(tmp_path: Path) -> dict[str, Any]:
    return dict(json.loads((tmp_path / "runs" / "judged" / "referee.json").read_text()))


def test_every_pair_is_in_the_table_with_both_controls(
    asked: Asked,
    models: list[str],
    tiny_recipe: Path,
    tiny_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = shutil.copy(tiny_recipe, tmp_path / "mine.yaml")
    datasets = ["--datasets", f"{mine}={tiny_shards}", str(tiny_shards)]
    found = judge(tmp_path, "--checkpoints", *models, *datasets, recipe=tiny_recipe)
    assert list(found["datasets"]) == ["mine", "tiny"]
    assert len(asked) == 4
    assert (found["alarms"], found["failures"], found["not_compared"]) == ([], {}, [])
    assert (
        list(found["datasets"]) == ["tiny.yaml".removesuffix(".yaml"), tiny_shards.name] or len(found["datasets"]) == 2
    )
    for dataset in found["datasets"].values():
        assert dataset["licence"] == "your own data"
        assert [row["name"] for row in dataset["scored"]] == ["oracle", "random", "first", "second"]
        oracle, _, *own = dataset["scored"]
        for protocol, facts in dataset["protocols"].items():
            figures = [row["protocols"][protocol] for row in dataset["scored"]]
            assert {each["hash"] for each in figures} == {facts["hash"]}
            assert oracle["protocols"][protocol]["map"] == {"value": 1.0, "low": 1.0, "high": 1.0}
        assert oracle["gap"] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert oracle["cost"] is None
        for row in own:
            same, changing = (row["protocols"][name]["map"]["value"] for name in ("same_clothes", "clothes_changing"))
            assert row["gap"]["value"] == pytest.approx(same - changing, abs=1e-12)
            assert row["cost"]["milliseconds"] > 0
            assert row["cost"]["clip"] == [2, 32, 16]
            assert row["cost"]["parameters"] > 10_000
            assert row["cost"]["flops"] > 100_000
    output = capsys.readouterr().out
    assert "oracle" in output
    assert "licence: your own data" in output
    page = (tmp_path / "runs" / "judged" / "report" / "index.html").read_text()
    assert "clothes-changing" in page
    assert "not trust" not in page


def test_a_killed_job_goes_on_and_what_is_asked_otherwise_is_done_again(
    asked: Asked, models: list[str], tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = judge(tmp_path, "--checkpoints", models[0], recipe=tiny_recipe)
    both = judge(tmp_path, "--checkpoints", *models, recipe=tiny_recipe)
    assert [name for name, _ in asked] == ["first", "second"]
    again = judge(tmp_path, "--checkpoints", *models, recipe=tiny_recipe)
    assert len(asked) == 2
    assert again == both
    assert again["datasets"]["footage"]["scored"][2] == first["datasets"]["footage"]["scored"][2], "measured once"
    (tmp_path / "runs" / "judged" / "pairs" / asked[1][1] / "metrics.json").unlink()  # as a kill leaves it
    judge(tmp_path, "--checkpoints", *models, recipe=tiny_recipe)
    assert [name for name, _ in asked[2:]] == ["second"]
    shutil.rmtree(models[0])
    checkpoint(Path(models[0]), seed=7)
    capsys.readouterr()
    judge(tmp_path, "--checkpoints", *models, recipe=tiny_recipe)
    assert [name for name, _ in asked[3:]] == ["first"]
    assert "scored again: weights: " in capsys.readouterr().out
    judge(tmp_path, "--checkpoints", *models, "--score.flip", "true", recipe=tiny_recipe)
    assert len(asked) == 6


def test_one_bad_pair_does_not_stop_the_others(
    asked: Asked, models: list[str], tiny_recipe: Path, tmp_path: Path
) -> None:
    """A checkpoint that is not there, and a data set without shards, each named at the end."""
    values = yaml.safe_load(tiny_recipe.read_text())
    values["data"]["shards"] = str(tmp_path / "none")
    (tmp_path / "lost.yaml").write_text(yaml.safe_dump(values))
    checkpoints = [models[0], str(tmp_path / "nothing"), models[1]]
    datasets = [str(tmp_path / "lost.yaml"), str(tiny_recipe)]
    with pytest.raises(InputError) as error:
        judge(tmp_path, "--checkpoints", *checkpoints, "--datasets", *datasets, recipe=tiny_recipe)
    lines = str(error.value).splitlines()
    assert lines[0] == "4 pair(s) could not be scored:"
    assert lines[1].startswith("  first on lost: no finished shards, and no sources to make them from")
    assert lines[4].startswith(f"  nothing on tiny: {tmp_path / 'nothing'}: ")
    assert [name for name, _ in asked] == ["first", "second"]
    found = read(tmp_path)
    assert list(found["failures"]) == ["first on lost", "nothing on lost", "second on lost", "nothing on tiny"]
    assert [row["name"] for row in found["datasets"]["tiny"]["scored"]] == ["oracle", "random", "first", "second"]
    assert "Not scored" in (tmp_path / "runs" / "judged" / "report" / "index.html").read_text()


def test_an_evaluator_at_fault_is_said_loudly(
    asked: Asked,
    models: list[str],
    tiny_recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The oracle and the random embedder change places."""
    made = controls.oracle_distances, controls.random_distances
    monkeypatch.setattr(controls, "oracle_distances", made[1])
    monkeypatch.setattr(controls, "random_distances", made[0])
    with pytest.raises(InputError, match="do not trust these figures: footage: general: the perfect oracle has mAP"):
        judge(tmp_path, "--checkpoints", models[0], recipe=tiny_recipe)
    assert "!!! DO NOT TRUST THESE FIGURES: footage" in capsys.readouterr().out
    assert "Do not trust these figures" in (tmp_path / "runs" / "judged" / "report" / "index.html").read_text()
    assert len(asked) == 1


def test_what_cannot_be_compared_is_marked(
    asked: Asked, models: list[str], tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tracklet that could not be read is missing in one pair's gallery."""
    judge(tmp_path, "--checkpoints", *models, recipe=tiny_recipe)
    path = tmp_path / "runs" / "judged" / "pairs" / asked[0][1] / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["hashes"]["general"] = "0" * 64
    path.write_text(json.dumps(metrics))
    capsys.readouterr()
    found = judge(tmp_path, "--checkpoints", *models, recipe=tiny_recipe)
    assert [line.partition(":")[0] for line in found["not_compared"]] == ["first on footage, general"]
    assert "0000000000 ≠" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--checkpoints", "x", "--datasets", "ccvid_call"], UsageError, "--datasets ccvid_call: neither a recipe nor"),
        (["--checkpoints", "x", "--datasets", "no.yaml"], UsageError, "no.yaml: no such file"),
        (["--checkpoints", "x", "--datasets", "ltcc_paper"], UsageError, "ltcc_paper=SHARDS names finished shards"),
        (["--checkpoints", "x", "--datasets", "ltcc_paper=a", "ltcc_paper=b"], UsageError, "a second data set of the"),
        (["--checkpoints", "x", "--datasets", "s4://x/y"], UsageError, "--datasets s4://x/y: .* knows the scheme"),
        (["--checkpoint", "x", "--datasets", "ltcc_paper"], UsageError, "--datasets: only with --checkpoints"),
        (["--checkpoints", "x", "--compare", "y"], UsageError, "not allowed with"),
        (["--checkpoints", "x", "--fuse", "face.parquet"], UsageError, "--fuse: not with --checkpoints"),
        (["--checkpoints", "x", "x"], InputError, "--checkpoints: a checkpoint is named twice"),
        (["--standing", "nothing"], InputError, "nothing: no metrics.json"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str], error: type[InputError], message: str) -> None:
    with pytest.raises(error, match=message) as found:
        evaluate.main([*arguments, "--run.storage", str(tmp_path / "runs")])
    assert type(found.value) is error
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_something_else_is_left_alone(
    asked: Asked, models: list[str], tiny_recipe: Path, tmp_path: Path
) -> None:
    other = tmp_path / "runs" / "judged" / "config.yaml"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    for flags in (["--checkpoints", models[0]], ["--standing", models[0]]):
        with pytest.raises(InputError, match=r"contains config.yaml.*choose another --run.name"):
            judge(tmp_path, *flags, recipe=tiny_recipe)
    assert other.read_text() == "mine"
    assert asked == []


@pytest.mark.usefixtures("asked")
def test_where_models_stand(models: list[str], tiny_recipe: Path, tmp_path: Path) -> None:
    """Of a referee's pairs: both models with their cost, what costs most, and what both miss."""
    judge(tmp_path, "--checkpoints", *models, recipe=tiny_recipe)
    judged = str(tmp_path / "runs" / "judged")
    flags = ["--recipe", str(tiny_recipe), "--run.storage", str(tmp_path / "runs"), "--run.name", "stand"]
    evaluate.main(["--standing", judged, *flags])
    (group,) = json.loads((tmp_path / "runs" / "stand" / "standing.json").read_text())["groups"]
    assert (group["protocol"], group["dataset"], len(group["models"])) == ("clothes_changing", "footage", 2)
    for model in group["models"].values():
        assert model["cost"]["milliseconds"] > 0
    assert {"camera", "camera pair", "colour of upper body"} <= {
        *(cost["attribute"] for cost in group["attributes"]),
        *group["left_out"],
    }
    differences = [cost["difference"]["value"] for cost in group["attributes"]]
    assert differences == sorted(differences)
    assert len(differences) > 1
    page = (tmp_path / "runs" / "stand" / "report" / "index.html").read_text()
    assert page.count("<svg") == 2
    assert "What costs most" in page


def test_results_of_other_questions_are_not_compared(
    asked: Asked, models: list[str], tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge(tmp_path, "--checkpoints", *models, recipe=tiny_recipe)
    pairs = [tmp_path / "runs" / "judged" / "pairs" / name for _, name in asked]
    metrics = json.loads((pairs[1] / "metrics.json").read_text())
    metrics["hashes"]["clothes_changing"] = "f" * 64
    (pairs[1] / "metrics.json").write_text(json.dumps(metrics))
    capsys.readouterr()
    flags = ["--recipe", str(tiny_recipe), "--run.storage", str(tmp_path / "runs"), "--run.name", "stand"]
    evaluate.main(["--standing", *map(str, pairs), *flags])
    assert "so these are not compared:" in capsys.readouterr().out
    groups = json.loads((tmp_path / "runs" / "stand" / "standing.json").read_text())["groups"]
    assert [len(group["models"]) for group in groups] == [1, 1]
    del metrics["hashes"]
    (pairs[1] / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match="has no hash of clothes_changing, general, same_clothes, so nobody can tell"):
        evaluate.main(["--standing", str(pairs[1]), *flags])


def test_results_of_given_distances_stand_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without labels of tracklets, pictures or a model."""
    random = np.random.default_rng(0)
    sides: dict[str, Any] = {
        f"{side}_{key}": random.integers(0, 4, size)
        for side, size in (("q", 20), ("g", 60))
        for key in ("pids", "camids")
    }
    np.savez(tmp_path / "d.npz", distmat=random.random((20, 60)), **sides)
    storage = ["--run.storage", str(tmp_path / "runs")]
    evaluate.main(["--distances", str(tmp_path / "d.npz"), "--keep-junk", "--run.name", "given", *storage])
    evaluate.main(["--standing", str(tmp_path / "runs" / "given"), "--run.name", "stand", *storage])
    (group,) = json.loads((tmp_path / "runs" / "stand" / "standing.json").read_text())["groups"]
    assert group["left_out"] == {"attributes": "no embeddings.parquet, which has the labels"}
    assert group["models"]["given"]["cost"] is None
    assert group["missed_by_all"]
    assert "its cost is not known" in capsys.readouterr().out


def test_results_in_object_storage(
    asked: Asked, models: list[str], tiny_recipe: Path, s3: S3Server, tmp_path: Path
) -> None:
    """The referee's pairs and where they stand, in a bucket; what is asked otherwise replaces what is there."""
    bucket = s3.bucket()
    flags = ["--recipe", str(tiny_recipe), "--run.storage", bucket, "--data.verify_checksums", "false"]
    flags += ["--score.threshold.draws", "100"]
    for _ in range(2):
        evaluate.main(["--checkpoints", *models, *flags, "--run.name", "judged"])
    assert len(asked) == 2
    evaluate.main(["--checkpoints", *models, *flags, "--run.name", "judged", "--score.flip", "true"])
    assert len(asked) == 4
    evaluate.main(["--standing", f"{bucket}/judged", *flags, "--run.name", "stand"])
    place = StorageFolder(bucket)
    (group,) = json.loads(place.read("stand/standing.json"))["groups"]
    assert len(group["models"]) == 2
    assert group["attributes"]
    assert place.exists("judged/report/index.html")
    assert place.exists("stand/report/index.html")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_on_a_cluster(head: Head, models: list[str], tiny_recipe: Path, tmp_path: Path) -> None:
    """The command as a user runs it, with a checkpoint that cannot be read, twice."""
    flags = ["--recipe", str(tiny_recipe), "--checkpoints", *models, str(tmp_path / "nothing"), "--run.name", "judged"]
    for _ in range(2):
        done = head.run("evaluate.py", *flags)
        assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
        assert "error: 1 pair(s) could not be scored:\n  nothing on footage: " in done.stderr
        assert "Traceback" not in done.stderr
    assert done.stdout.count("scoring") == 0, "both pairs have their metrics"
    assert [row["name"] for row in read(tmp_path)["datasets"]["footage"]["scored"]] == [
        *("oracle", "random", "first", "second")
    ]
