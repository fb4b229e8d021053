"""A recipe whose weights come from a first stage, which the same command trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ccvid.config import Recipe
from ccvid.run_files import DESCRIPTION_FILE, PROGRESS_FILE, WEIGHTS_FILE
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from ray_jobs.cli import RECIPES, parse_recipe
from ray_jobs.training.stages import after_first_stage, first_stage_of

CSCI = ("ccvid_csci_paper", "mevid_csci_paper", "ccvid_csci", "mevid_csci")


def recipe_of(name: str, *flags: str) -> Recipe:
    return parse_recipe(["--recipe", name, "--data.root", "/data", *flags], program="train.py", description="")[0]


@pytest.mark.parametrize("name", CSCI)
def test_a_first_stage_has_data_place_workers_and_seed_of_the_second(name: str, tmp_path: Path) -> None:
    recipe = recipe_of(name, "--run.storage", str(tmp_path), "--run.name", "mine", "--train.seed", "7")
    first = first_stage_of(recipe)
    assert (first.run.name, first.run.storage, first.train.seed) == ("mine-stage1", str(tmp_path), 7)
    assert (first.data, first.compute, first.train.bf16) == (recipe.data, recipe.compute, recipe.train.bf16)
    assert first.model.backbone == recipe.model.backbone.replace("csci_video", "csci_plain")
    assert first.clip.length == 1
    shared = {"run", "data", "compute", "loader"}
    alone = recipe_of(str(recipe.train.first_stage), "--train.seed", "7").model_dump(exclude=shared)
    assert first.model_dump(exclude=shared) == alone


@pytest.mark.parametrize(("name", "expected"), [("ccvid_csci", 1), ("ccvid_csci_paper", 0)])
def test_a_first_stage_has_validators_if_it_holds_identities_out(name: str, expected: int) -> None:
    recipe = recipe_of(name, "--train.held_out_share", "0.1", "--compute.validators", "1", "--compute.workers", "3")
    first = first_stage_of(recipe).compute
    assert (first.validators, first.workers) == (expected, 3)


def test_the_second_stage_starts_from_the_last_weights_of_the_first(tmp_path: Path) -> None:
    recipe = recipe_of("mevid_csci", "--run.storage", str(tmp_path))
    trained = []

    def train(first: Recipe) -> StorageFolder:
        folder = StorageFolder(str(tmp_path / first.run.name))
        for number in (1, 2):
            checkpoint = tmp_path / first.run.name / f"checkpoint_{number}"
            checkpoint.mkdir(parents=True)
            (checkpoint / WEIGHTS_FILE).touch()
            (checkpoint / DESCRIPTION_FILE).touch()
            (checkpoint / PROGRESS_FILE).write_text(f'{{"epoch": {number}, "step": 0}}')
        trained.append(first.run.name)
        return folder

    second = after_first_stage(recipe, train)
    assert trained == ["mevid_csci-stage1"]
    assert second.model.weights == str(tmp_path / "mevid_csci-stage1" / "checkpoint_2" / WEIGHTS_FILE)
    weights = {"weights": recipe.model.weights}
    assert second.model_copy(update={"model": second.model.model_copy(update=weights)}) == recipe


def test_without_a_first_stage_nothing_is_trained_before() -> None:
    recipe = recipe_of("ccvid_cal")
    assert after_first_stage(recipe, lambda _: pytest.fail("trained")) is recipe


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"height": 3}}, "train.first_stage FILE: model.height: "),
        ({"train": {"first_stage": "ccvid_cal"}}, "train.first_stage FILE: has a first stage of its own (ccvid_cal)"),
    ],
)
def test_a_first_stage_that_cannot_be_used_is_named(content: object, message: str, tmp_path: Path) -> None:
    file = tmp_path / "first.yaml"
    file.write_text(yaml.safe_dump(content))
    recipe = recipe_of("ccvid_cal", "--train.first_stage", str(file))
    with pytest.raises(InputError) as refused:
        first_stage_of(recipe)
    assert str(refused.value).startswith(message.replace("FILE", str(file)))


def test_a_first_stage_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="ccvid_call: no such file"):
        first_stage_of(recipe_of("ccvid_cal", "--train.first_stage", "ccvid_call"))


def test_every_first_stage_of_a_recipe_is_a_recipe() -> None:
    named = {path.stem: yaml.safe_load(path.read_text())["train"].get("first_stage") for path in RECIPES.glob("*.yaml")}
    assert {name for name, first in named.items() if first} == {*CSCI, "synthetic_csci"}
    assert all(f"{first}.yaml" in {path.name for path in RECIPES.glob("*.yaml")} for first in named.values() if first)
