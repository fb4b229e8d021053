"""The search space's file, and the trials drawn from it. Without Ray."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import yaml

from ccvid.config import Recipe, TrainOptions
from ray_jobs.cli import UsageError, read_recipe, recipe_names
from ray_jobs.tuning.propose import SearcherName, propose
from ray_jobs.tuning.records import TrialRecord
from ray_jobs.tuning.space import Space, read_space, space_names, with_values

TRAIN = TrainOptions(held_out_share=0.1, test_weights="best")


def space_of(folder: Path, text: str) -> Space:
    path = folder / "space.yaml"
    path.write_text(text)
    return read_space(str(path), Recipe())


def test_every_kind_of_field_is_read_and_drawn_within_its_ends(tmp_path: Path) -> None:
    text = """
    optim.learning_rate: {log_range: [1e-5, 1e-2]}   # YAML takes 1e-5 for text
    batch.clips: {log_range: [2, 64]}
    method.epsilon: {range: [0, 1]}
    optim.milestones: {choices: [[20, 40], [10]]}
    train.ema_decay: {choices: [null, 0.99]}
    """
    space = space_of(tmp_path, text)
    generator = random.Random(0)
    drawn = [space.draw(generator) for _ in range(400)]
    rates = sorted(values["optim.learning_rate"] for values in drawn)
    assert 1e-5 <= rates[0] < rates[-1] <= 1e-2
    assert 1e-4 < rates[200] < 1e-3  # the middle of the logarithms
    clips = [values["batch.clips"] for values in drawn]
    assert {type(count) for count in clips} == {int}
    assert min(clips) == 2
    assert max(clips) > 50
    assert sorted(clips)[200] < 16
    assert {str(values["optim.milestones"]) for values in drawn} == {"[20, 40]", "[10]"}
    assert {values["train.ema_decay"] for values in drawn} == {None, 0.99}
    for values in drawn:
        recipe = with_values(Recipe(), values)
        assert recipe.batch.clips == values["batch.clips"]
        assert recipe.optim.milestones == tuple(values["optim.milestones"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optim.learning_rte: {choices: [1]}",
            "optim.learning_rte: a recipe has no such field; did you mean",
        ),
        ("optim: {choices: [1]}", "optim: is a section; name one of its fields, such as optim.name"),
        ("run.name: {choices: [a, b]}", "run.name: cannot be searched: it changes no result"),
        ("compute.workers: {range: [1, 2]}", "compute.workers: cannot be searched: it changes no result"),
        ("data.frames.height: {range: [64, 128]}", "cannot be searched: each value would need other shards"),
        ("train.held_out_share: {range: [0.1, 0.2]}", "trials would be scored on different identities"),
        ("batch.clips: {range: [2, 4.5]}", "batch.clips: range [2, 4.5], expected whole numbers"),
        ("batch.clips: {log_range: [0, 4]}", "expected both above 0"),
        ("method.epsilon: {range: [0.5, 0.1]}", "expected [low, high], two numbers with low below high"),
        ("method.epsilon: {range: [0.1, .inf]}", "expected [low, high]"),
        (
            "method.epsilon: {range: [0.5, 1.5]}",
            "epsilon: cannot be 1.5: Input should be less than or equal to 1",
        ),
        ("train.epochs: {choices: [3, 0]}", "train.epochs: cannot be 0: Input should be greater than or equal to 1"),
        ("model.backbone: {choices: [c2d_resnet51]}", "model.backbone: cannot be 'c2d_resnet51': no backbone"),
        (
            "model.backbone: {range: [1, 2]}",
            "model.backbone: is not a number, so it cannot have a range; list its choices",
        ),
        ("optim.name: {choises: [adam]}", "optim.name: {'choises': ['adam']}, expected one of"),
        ("optim.name: {choices: []}", "expected a list with at least one value"),
        ("optim.weight_decay: {choices: [0.001, 1e-3]}", "duplicate choice '1e-3'"),
        ("[1, 2]", "holds [1, 2], expected a mapping such as"),
        ("", "holds None, expected a mapping"),
        ("a: {b", "not readable as YAML"),
        (
            "method.label_smoothing: {choices: [0.1, 0.2]}\nmethod.identity_loss: {choices: [arcface]}",
            "method.label_smoothing: cannot be 0.1 in this space: label_smoothing needs identity_loss cross_entropy",
        ),
    ],
)
def test_what_is_wrong_is_reported_with_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        space_of(tmp_path, text)
    assert message in str(error.value)
    assert str(error.value).startswith(f"--space {tmp_path / 'space.yaml'}: ")
    assert "\n" not in str(error.value)


def test_a_value_may_need_another_fields_value(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        "method.label_smoothing: {choices: [0.0, 0.1]}\nmethod.identity_loss: {choices: [cross_entropy, arcface]}",
    )
    assert space.count == 4


def test_a_missing_space_names_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="--space nowhere: no such file, and no space of that name; spaces: cal"):
        read_space("nowhere", Recipe())


@pytest.mark.parametrize("name", space_names())
def test_the_spaces_that_come_with_the_project_suit_its_recipes(name: str) -> None:
    for recipe in recipe_names():
        values = {**read_recipe(recipe)}
        values["data"] = {"kind": "synthetic"}
        space = read_space(name, Recipe.model_validate(values))
        assert all(len(parameter.values) >= 2 for parameter in space.parameters), recipe


def searched(space: Space, searcher: SearcherName, trials: int) -> list[TrialRecord]:
    """A made-up search: learning rates near 1e-3 score best; every fourth trial is stopped halfway."""
    known: list[TrialRecord] = []
    for number in range(trials):
        values = propose(searcher, space, known, TRAIN)
        score = 0.5 - 0.1 * abs(math.log10(values["optim.learning_rate"]) + 3)
        stopped = number % 4 == 3
        record = TrialRecord(number=number, values=values, epochs=4, epoch=2 if stopped else 4)
        record.state, record.history = "stopped" if stopped else "finished", [(2, score), (4, score)][: 2 - stopped]
        record.score = record.best_score = score
        known.append(record)
    return known


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_a_search_that_goes_on_draws_as_if_it_had_never_stopped(tmp_path: Path, searcher: SearcherName) -> None:
    space = space_of(tmp_path, "optim.learning_rate: {log_range: [0.00001, 1]}\nbatch.clips: {range: [2, 8]}")
    whole = searched(space, searcher, 24)
    read_again = [TrialRecord.model_validate_json(record.model_dump_json()) for record in whole]
    for place in (0, 7, 12, 23):
        assert propose(searcher, space, read_again[:place], TRAIN) == whole[place].values
    other_seed = TRAIN.model_copy(update={"seed": 2})
    assert propose(searcher, space, read_again[:7], other_seed) != whole[7].values


def test_optuna_learns_where_random_does_not(tmp_path: Path) -> None:
    space = space_of(tmp_path, "optim.learning_rate: {log_range: [0.00001, 10]}")
    mean = {}
    for searcher in ("random", "optuna"):
        scores = [record.score for record in searched(space, searcher, 40)[20:]]
        mean[searcher] = sum(score for score in scores if score is not None) / len(scores)
    assert mean["optuna"] > mean["random"] + 0.05


def test_no_setting_is_tried_twice_while_there_is_another(tmp_path: Path) -> None:
    space = space_of(tmp_path, "optim.learning_rate: {choices: [0.1, 0.01, 0.001]}\nbatch.clips: {range: [2, 4]}")
    assert space.count == 9
    for searcher in ("random", "optuna", "grid"):
        drawn = [yaml.safe_dump(record.values) for record in searched(space, searcher, 9)]
        assert len(set(drawn)) == 9, searcher


def test_trials_at_the_same_time_differ(tmp_path: Path) -> None:
    space = space_of(tmp_path, "optim.learning_rate: {log_range: [0.00001, 1]}")
    known = searched(space, "optuna", 15)
    drawn = []
    for _ in range(4):
        values = propose("optuna", space, known, TRAIN)
        known.append(TrialRecord(number=len(known), values=values, epochs=4, state="running"))
        drawn.append(values["optim.learning_rate"])
    assert len(set(drawn)) == 4
