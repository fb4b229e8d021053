"""What is found on the machines, which settings follow from it, and where they are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ccvid.config import Recipe
from ccvid.retrieval.embedding.store import open_store
from ccvid.trained_model import configured_backbone
from data_tools.storage import StorageFolder
from ray_jobs.begun_runs import keep_found_precision
from ray_jobs.cluster import machines
from ray_jobs.cluster.machines import Machine, decide_precision
from ray_jobs.scoring.embedding import UsedModel, keep_precision
from ray_jobs.tuning.records import SearchRecords

MODEL = {"backbone": "c2d_resnet18_slim", "weights": "random", "height": 64, "width": 32}
Cluster = Callable[..., None]


def recipe(bf16: object) -> Recipe:
    return Recipe.model_validate({"model": MODEL, "train": {"bf16": bf16}})


def machine(device: str, speed: float | None, threads: int = 2) -> Machine:
    return Machine(device, threads, speed, speed is not None and speed >= 1.1, "decord 0.6.0")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Pretend that these machines were found."""

    def pretend(*found: Machine) -> None:
        monkeypatch.setattr(machines, "_look_everywhere", lambda *_, **__: list(found))

    return pretend


@pytest.mark.parametrize(("speed", "expected"), [(2.0, True), (1.0, False), (0.1, False)])
def test_one_machine_decides(
    speed: float, expected: bool, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    workers: Any = None
    cluster(machine("a", speed))
    assert decide_precision(recipe("auto"), workers).train.bf16 is expected
    lines = capsys.readouterr().out.splitlines()
    precision = "bfloat16" if expected else "float32"
    assert lines == [f"found: a, 2 thread(s) per worker, decord 0.6.0; computing in {precision}"]


def test_a_mixed_cluster_takes_what_the_slowest_can_do(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    workers: Any = None
    cluster(machine("new", 2.0), machine("old", 0.1), machine("new", 2.1))
    assert decide_precision(recipe("auto"), workers).train.bf16 is False
    (line,) = capsys.readouterr().out.splitlines()
    assert line.count("new, 2 thread(s)") == 1, "a kind of node is named once"
    assert line.endswith("computing in float32 on all nodes, because old is not faster in bfloat16")


def test_an_emulation_that_was_asked_for_is_reported(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    workers: Any = None
    cluster(machine("new", 2.0), machine("old", 0.1))
    assert decide_precision(recipe(True), workers).train.bf16 is True
    found, warning = capsys.readouterr().out.splitlines()
    assert found.endswith("computing in bfloat16")
    assert "old" in warning
    assert "takes 10.0 times as long as in float32" in warning


def test_float32_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def look(_recipe: Recipe, _workers: object, *, try_bf16: bool) -> list[Machine]:
        asked.append(try_bf16)
        return [machine("a", None)]

    monkeypatch.setattr(machines, "_look_everywhere", look)
    workers: Any = None
    assert decide_precision(recipe(False), workers).train.bf16 is False
    assert asked == [False]


def test_the_look_itself(tmp_path: Path) -> None:
    del tmp_path
    plain = recipe("auto")
    found = machines.look(plain.model, plain.clip, False, 2, try_bf16=True)
    assert found.device == machines.processor_name() != ""
    assert found.bf16_speed is not None
    assert found.bf16_speed > 0
    assert found.bf16_pays == (found.bf16_speed >= 1.1)
    assert 1 <= found.threads <= 2
    assert "av " in found.decoders


@pytest.mark.parametrize("found", [True, False])
def test_a_run_that_resumes_keeps_its_precision(found: bool) -> None:
    there = {"train": {"bf16": found}}
    assert keep_found_precision(recipe("auto"), there).train.bf16 is found
    other = keep_found_precision(recipe(not found), there)
    assert other.train.bf16 is not found, "that is another setting, and refused"
    assert keep_found_precision(recipe("auto"), {"train": 3}).train.bf16 == "auto"


@pytest.mark.parametrize("found", [True, False])
def test_an_embedding_store_and_other_embeddings_keep_theirs(found: bool, tmp_path: Path) -> None:
    from torch import nn

    from ccvid.model import ReIdModel

    auto = recipe("auto")
    model = ReIdModel(configured_backbone(auto.model, auto.clip), nn.Identity()).eval()
    used = UsedModel(model, "weights", auto.model, auto.clip, "slim")
    there = used.describe(auto.with_bf16(found))
    assert there.bf16 is found
    empty, place = StorageFolder(str(tmp_path / "none")), StorageFolder(str(tmp_path / "store"))
    open_store(place, there)
    assert keep_precision(used, auto, place).train.bf16 is found
    assert keep_precision(used, auto, empty, [there.fingerprint]).train.bf16 is found
    assert keep_precision(used, auto, empty, ["another"]).train.bf16 == "auto"
    assert keep_precision(used, recipe(not found), place).train.bf16 is not found


def test_a_search_keeps_what_was_decided_for_its_first_trial(tmp_path: Path) -> None:
    folder = StorageFolder(str(tmp_path))
    records = SearchRecords(folder, {})
    assert records.with_precision(recipe("auto")).train.bf16 == "auto"
    records.keep_precision(recipe(True))
    records.save()
    assert SearchRecords(folder, {}).with_precision(recipe("auto")).train.bf16 is True


@pytest.mark.parametrize("cpus", [1, 2, 8, 64])
def test_loaders_stay_within_the_cpus_of_a_worker(cpus: int) -> None:
    wide = Recipe.model_validate({"loader": {"threads": 16, "processes": 4}}).within(cpus)
    assert wide.loader.threads == min(16, cpus)
    assert wide.loader.processes == min(4, cpus)
