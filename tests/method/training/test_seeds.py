"""Several seeds of a recipe: the summary, and the runs behind it (without the training itself)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ccvid.config import Recipe
from ccvid.training.seeds import SeedSummary, read_seed_metrics
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from ray_jobs.cli import UsageError
from ray_jobs.train import main
from tests.s3_server import S3Server


def entry(value: float) -> dict[str, Any]:
    cmc = {rank: value + 0.01 * number for number, rank in enumerate(("1", "5", "10", "20"))}
    return {"map": value, "minp": value / 2, "cmc": cmc, "queries": 9, "queries_without_match": 0}


def metrics(value: float, *protocols: str) -> dict[str, Any]:
    return {"protocols": {name: entry(value) for name in protocols or ("general", "clothes_changing")}, "seed": 1}


def test_the_summary_is_mean_and_sample_deviation_of_each_figure() -> None:
    values = {2: 0.3, 1: 0.5, 3: 0.25}
    summary = SeedSummary.of({seed: metrics(value) for seed, value in values.items()}).to_json()
    assert summary["seeds"] == [1, 2, 3]
    protocols: Any = json.loads(json.dumps(summary))["protocols"]
    assert list(protocols) == ["general", "clothes_changing"]
    expected = [0.5, 0.3, 0.25]
    for found, add, factor in (
        (protocols["general"]["map"], 0, 1),
        (protocols["clothes_changing"]["minp"], 0, 0.5),
        (protocols["clothes_changing"]["cmc"]["10"], 0.02, 1),
    ):
        own = [factor * value + add for value in expected]
        assert found["values"] == pytest.approx(own)
        assert found["mean"] == pytest.approx(sum(own) / 3)
        assert found["sd"] == pytest.approx(statistics.stdev(own))
    assert set(protocols["general"]["cmc"]) == {"1", "5", "10", "20"}


def test_the_table_shows_per_cent() -> None:
    table = SeedSummary.of({1: metrics(0.5), 2: metrics(0.7)}).table("walkers")
    assert "walkers, mean ± standard deviation of 2 seeds (%)" in table
    line = next(line for line in table.splitlines() if "clothes-changing" in line)
    assert line.split()[1:4] == ["60.0", "±", "14.1"]
    assert "top-20" in table


def test_a_single_seed_has_no_deviation_and_protocols_must_be_in_all() -> None:
    alone = SeedSummary.of({4: metrics(0.5)})
    protocols: Any = alone.to_json()["protocols"]
    assert protocols["general"]["map"] == {"mean": 0.5, "sd": None, "values": [0.5]}
    assert "±" not in alone.table("x").split("(%)")[1]
    both = SeedSummary.of({1: metrics(0.5), 2: metrics(0.5, "general", "same_clothes")})
    assert list(both.protocols) == ["general"]


def test_single_shot_means_are_spread_over_the_seeds_too() -> None:
    def with_draws(value: float) -> dict[str, Any]:
        spread = {"mean": value, "sd": 0.1}
        drawn = {"map": spread, "minp": spread, "cmc": dict.fromkeys(("1", "5", "10", "20"), spread)}
        return {**metrics(value), "single_shot": {"draws": 10, "protocols": {"general": drawn}, "left_out": {}}}

    summary = SeedSummary.of({1: with_draws(0.2), 2: with_draws(0.4)})
    single_shot: Any = summary.to_json()["single_shot"]
    assert single_shot["protocols"]["general"]["cmc"]["1"]["mean"] == pytest.approx(0.3)
    assert "One gallery tracklet per person" in summary.table("x")


@pytest.mark.parametrize("content", ["{", "[]", '{"protocols": {"general": {"map": 1}}}', '{"protocols": 3}'])
def test_metrics_of_another_kind_are_an_input_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(content)
    with pytest.raises(InputError, match=r"metrics.json: not (the metrics of a run|readable as JSON)"):
        read_seed_metrics(file)
    with pytest.raises(InputError, match="scored nothing"):
        read_seed_metrics(tmp_path / "missing.json")


def trainer_of(trained: list[int], fail_at: int | None = None) -> Callable[[Recipe], StorageFolder]:
    """Trains nothing: a finished run is left unchanged, as in the real one."""

    def train(recipe: Recipe) -> StorageFolder:
        folder = StorageFolder(recipe.run.storage) / recipe.run.name
        if not folder.exists("metrics.json"):
            if recipe.train.seed == fail_at:
                raise InputError("worker lost")
            trained.append(recipe.train.seed)
            folder.write("metrics.json", json.dumps(metrics(recipe.train.seed / 10)).encode())
        return folder

    return train


def test_the_same_command_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--run.name", "walk", "--run.storage", str(tmp_path), "--train.seed", "3", "--seeds", "3"]
    trained: list[int] = []
    with pytest.raises(InputError, match="worker lost"):
        main(arguments, trainer_of(trained, fail_at=4))
    assert not (tmp_path / "walk").exists()
    main(arguments, trainer_of(trained))
    assert trained == [3, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["walk", "walk-seed3", "walk-seed4", "walk-seed5"]
    found = json.loads((tmp_path / "walk" / "seeds.json").read_text())
    assert found["seeds"] == [3, 4, 5]
    assert found["protocols"]["general"]["map"]["mean"] == pytest.approx(0.4)
    output = capsys.readouterr().out
    assert "40.0 ± 10.0" in output
    assert f"results: {tmp_path / 'walk'}" in output
    assert (tmp_path / "walk" / "seeds.txt").read_text() in output
    main([*arguments[:-1], "4"], trainer_of(trained))
    assert trained == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0"], "argument --seeds: expected a whole number from 1 to 1000, got '0'"),
        (["--seeds", "-2"], "--seeds"),
        (["--seeds", "few"], "expected a whole number from 1 to 1000, got 'few'"),
        (["--seeds", "2", "--train.seed", str(2**32 - 1)], "train.seed: Input should be less than 4294967296"),
        (["--seeds", "2", "--run.name", "n" * 96], "run.name: String should have at most 100 characters"),
    ],
)
def test_bad_numbers_are_usage_errors_before_anything_starts(flags: list[str], message: str, tmp_path: Path) -> None:
    trained: list[int] = []
    with pytest.raises(UsageError) as error:
        main([*flags, "--run.storage", str(tmp_path)], trainer_of(trained))
    assert message in str(error.value)
    assert trained == []


@pytest.mark.slow
def test_seeds_on_object_storage(s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    storage, trained = StorageFolder(s3.bucket()) / "runs", list[int]()
    for _ in range(2):
        main(["--run.name", "walk", "--run.storage", str(storage), "--seeds", "2"], trainer_of(trained))
    assert trained == [1, 2]
    assert storage.names() == ["walk", "walk-seed1", "walk-seed2"]
    assert json.loads(storage.read("walk/seeds.json"))["seeds"] == [1, 2]
    assert f"results: {storage}/walk" in capsys.readouterr().out
