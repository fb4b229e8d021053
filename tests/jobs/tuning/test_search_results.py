"""Records, tables, importance, picture and best recipe of made-up trials; and how many trials fit the cluster."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

from ccvid.config import ComputeOptions, MethodOptions, Recipe, RunOptions, TrainOptions
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from ray_jobs.cli import UsageError, parse_recipe
from ray_jobs.tuning.callbacks import Notes, TrialSource
from ray_jobs.tuning.records import SearchRecords
from ray_jobs.tuning.results import importance, write_results
from ray_jobs.tuning.room import find_room
from ray_jobs.tuning.runner import SearchOptions, check_search, default_grace
from ray_jobs.tuning.space import Space, read_space
from ray_jobs.tuning.tables import RunningTable, results_table

SPACE = """
optim.learning_rate: {log_range: [0.00001, 0.01]}
batch.clips: {range: [2, 8]}
optim.milestones: {choices: [[20, 40], [10]]}
"""


def recipe_in(folder: Path) -> Recipe:
    return Recipe(
        run=RunOptions(name="night", storage=str(folder)),
        train=TrainOptions(held_out_share=0.1, epochs=60, test_weights="best"),
    )


def made_up(folder: Path, trials: int) -> tuple[SearchRecords, Recipe, Space]:
    """The learning rate decides; the worse half is stopped after epoch 20; trial 3 failed."""
    recipe = recipe_in(folder)
    (folder / "space.yaml").write_text(SPACE)
    space = read_space(str(folder / "space.yaml"), recipe)
    records = SearchRecords(StorageFolder(str(folder)) / "night", {"searcher": "random", "grace": 20})
    generator = random.Random(1)
    for number in range(trials):
        record = records.add(space.draw(generator), 60)
        if number == 3:
            record.state, record.reason = "failed", "epoch 1, step 4: losses that are not finite"
            continue
        height = 0.5 - 0.1 * abs(math.log10(record.values["optim.learning_rate"]) + 3)
        record.state = "finished" if height > 0.4 else "stopped"
        record.epoch = 60 if record.state == "finished" else 20
        record.history = [(epoch, height * (1 - math.exp(-epoch / 15))) for epoch in range(10, record.epoch + 1, 10)]
        record.score = record.best_score = record.history[-1][1]
        record.seconds = 30.0 * record.epoch
    records.save()
    return records, recipe, space


def test_everything_is_written_and_tells_the_same(tmp_path: Path) -> None:
    records, recipe, space = made_up(tmp_path, 30)
    write_results(records, recipe, space)
    folder = tmp_path / "night"
    best = max(records.trials, key=lambda record: record.best_score or 0)

    table = pq.read_table(folder / "trials.parquet")
    assert table.num_rows == 30
    assert table["optim.learning_rate"].to_pylist() == [each.values["optim.learning_rate"] for each in records.trials]
    assert json.loads(table["optim.milestones"][0].as_py()) == records.trials[0].values["optim.milestones"]
    assert table["best_score"][3].as_py() is None
    assert table["reason"][3].as_py() == "epoch 1, step 4: losses that are not finite"
    assert max(score for score in table["best_score"].to_pylist() if score is not None) == best.best_score

    lines = (folder / "trials.txt").read_text().splitlines()
    assert lines[4].split()[1:4] == [best.name, "finished", "60/60"]
    assert lines[-1].split()[1:3] == ["trial-00003", "failed"]
    assert "learning_rate" in lines[3]

    text = (folder / "best.yaml").read_text()
    assert f"{best.name} (finished, epoch 60 of 60)" in text.splitlines()[0]
    again, _ = parse_recipe(["--recipe", str(folder / "best.yaml")], program="train.py", description="")
    assert again.run.name == "night-best"
    assert again.run.storage == str(tmp_path)
    assert again.optim.learning_rate == best.values["optim.learning_rate"]
    assert list(again.optim.milestones) == best.values["optim.milestones"]
    assert again.train == recipe.train
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_importance_names_the_field_that_decided_and_says_when_trials_are_few(tmp_path: Path) -> None:
    records, _, space = made_up(tmp_path, 40)
    found = importance(records, space)
    assert next(iter(found["importance"])) == "optim.learning_rate"
    assert found["importance"]["optim.learning_rate"] > 0.6
    assert (found["trials"], found["epoch"], found["note"]) == (39, 20, "")
    records.trials = records.trials[:8]
    assert "unreliable: fewer than" in importance(records, space)["note"]
    records.trials = records.trials[:4]
    few = importance(records, space)
    assert few["importance"] == {}
    assert few["note"] == "too few trials: 3 with a score, expected at least 4"


def test_the_picture_shows_every_axis_and_explains_itself(tmp_path: Path) -> None:
    records, recipe, space = made_up(tmp_path, 12)
    write_results(records, recipe, space)
    picture = (tmp_path / "night" / "parallel_coordinates.svg").read_bytes()
    root = ElementTree.fromstring(picture)
    assert root.tag.endswith("svg")
    comments = picture.decode()  # matplotlib draws letters as shapes, and writes the text next to them
    for text in ("learning_rate", "(log scale)", "batch.", "milestones", "clothes-", "stopped early", "1 failed"):
        assert text in comments, text
    write_results(records, recipe, space)
    assert (tmp_path / "night" / "parallel_coordinates.svg").read_bytes() == picture


def test_all_failed_is_one_error_and_one_scored_trial_is_enough(tmp_path: Path) -> None:
    records, recipe, space = made_up(tmp_path, 4)
    records.trials = records.trials[3:]
    with pytest.raises(InputError, match="all 1 trials failed; trial-00003: epoch 1, step 4"):
        write_results(records, recipe, space)
    (tmp_path / "night" / "search.json").unlink()
    records, recipe, space = made_up(tmp_path, 1)
    write_results(records, recipe, space)
    assert (tmp_path / "night" / "best.yaml").exists()


def test_records_are_read_again_and_other_settings_are_refused(tmp_path: Path) -> None:
    records, _, _ = made_up(tmp_path, 5)
    again = SearchRecords(records.folder, {"searcher": "random", "grace": 20})
    assert again.trials == records.trials
    with pytest.raises(
        InputError, match=r"other settings.*\n  searcher: 'random' there, 'optuna' now\n  grace: 20 there"
    ):
        SearchRecords(records.folder, {"searcher": "optuna", "grace": 10})
    older = {"searcher": "random", "grace": 20, "recipe": {"train.checkpoint_share": 0.02}}
    (tmp_path / "night" / "search.json").write_text(json.dumps({"settings": older, "trials": []}))
    SearchRecords(records.folder, {"searcher": "random", "grace": 20, "recipe": {}})
    (tmp_path / "night" / "search.json").write_text('{"settings": {}, "trials": [{"number": 0}]}')
    with pytest.raises(InputError, match=r"search.json: trials.0.values: Field required"):
        SearchRecords(records.folder, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"number": 7}, "found trial 7, expected trial 1"),
        ({"values": {}}, "trial 1 does not have the same searched fields as trial 0"),
        ({"score": float("nan")}, r"trials\.1\.score: Input should be a finite number"),
        ({"seconds": 1e300}, r"trials\.1\.seconds: Input should be less than"),
        ({"epoch": -1}, r"trials\.1\.epoch: Input should be greater than or equal to 0"),
        ({"history": [[1, float("inf")]]}, r"trials\.1\.history\.0\.1: Input should be a finite number"),
        (
            {"values": {"optim.learning_rate": 1, "batch.clips": 4, "optim.milestones": [10]}},
            "expected values in the search space",
        ),
    ],
)
def test_records_that_no_search_wrote_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    records, _, space = made_up(tmp_path, 2)
    file = tmp_path / "night" / "search.json"
    content = json.loads(file.read_text())
    SearchRecords(records.folder, records.settings, space)
    content["trials"][1] |= changes
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"search\.json: .*{message}"):
        SearchRecords(records.folder, records.settings, space)


def test_the_running_table_tells_progress_without_escape_codes(tmp_path: Path) -> None:
    records, recipe, _ = made_up(tmp_path, 6)
    running = records.trials[5]
    running.state, running.epoch, running.seconds = "running", 20, 600.0
    text = RunningTable(records, recipe.train, name="night", count=8, at_once=2).text()
    assert "\x1b" not in text
    assert "search night: " in text
    assert " of 8 trials" in text
    assert "trial-00005  20/60" in text
    assert "0:20:00" in text  # 40 epochs of 30 s
    assert "best so far: trial-" in text
    empty = RunningTable(
        SearchRecords(StorageFolder(str(tmp_path)) / "new", {}), recipe.train, name="n", count=8, at_once=2
    )
    assert "starting of 8 trials; unknown time left" in empty.text()


def test_the_counted_score_follows_the_weights_that_would_be_tested(tmp_path: Path) -> None:
    records, recipe, _ = made_up(tmp_path, 1)
    record = records.trials[0]
    record.score, record.best_score = 0.2, 0.3
    last = recipe.train.model_copy(update={"test_weights": "last"})
    assert (record.counted_score(recipe.train), record.counted_score(last)) == (0.3, 0.2)
    assert "the last one counts" in results_table(records, last, "title")


@pytest.mark.parametrize(
    ("compute", "nodes", "concurrency", "expected"),
    [
        (ComputeOptions(), [{"CPU": 2.0}], None, (1, 1, 2)),
        (ComputeOptions(), [{"CPU": 2.0}], 2, (2, 1, 1)),
        (ComputeOptions(cpus_per_worker=1), [{"CPU": 2.0}], None, (2, 1, 1)),
        (ComputeOptions(workers=2, cpus_per_worker=3), [{"CPU": 8.0}, {"CPU": 8.0}, {"CPU": 2.0}], None, (2, 2, 3)),
        (ComputeOptions(workers=3, cpus_per_worker=3), [{"CPU": 8.0}, {"CPU": 8.0}], None, (1, 3, 3)),
        (ComputeOptions(), [{"CPU": 32.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 64.0}], None, (6, 1, 8)),
        (ComputeOptions(workers=2), [{"CPU": 32.0, "GPU": 3.0}, {"CPU": 32.0, "GPU": 3.0}], None, (3, 2, 10)),
        (ComputeOptions(use_gpu=False, cpus_per_worker=4), [{"CPU": 32.0, "GPU": 4.0}], None, (8, 1, 4)),
        (ComputeOptions(cpus_per_worker=1), [{"CPU": 64.0}], None, (20, 1, 1)),
        (ComputeOptions(decoders=2), [{"CPU": 32.0, "GPU": 8.0}, {"CPU": 7.0}], None, (3, 1, 4)),
        (ComputeOptions(validators=1), [{"CPU": 2.0}], None, (1, 1, 1)),
        (ComputeOptions(validators=1, workers=2), [{"CPU": 32.0, "GPU": 8.0}], None, (2, 2, 4)),
        (ComputeOptions(validators=1, decoders=2), [{"CPU": 32.0, "GPU": 8.0}, {"CPU": 7.0}], None, (3, 1, 4)),
    ],
)
def test_room_counts_workers_node_by_node(
    compute: ComputeOptions, nodes: list[dict[str, float]], concurrency: int | None, expected: tuple[int, int, int]
) -> None:
    room = find_room(compute, nodes, concurrency=concurrency, trials=20)
    assert (room.trials, room.compute.workers, room.compute.cpus_per_worker) == expected


@pytest.mark.parametrize(
    ("compute", "nodes", "concurrency"),
    [
        (ComputeOptions(workers=3, cpus_per_worker=1), [{"CPU": 2.0}], None),
        (ComputeOptions(cpus_per_worker=2), [{"CPU": 3.0}, {"CPU": 3.0}], 3),  # six CPUs, but not three pairs
        (ComputeOptions(use_gpu=True), [{"CPU": 8.0}], None),
        (ComputeOptions(), [{"node:x": 1.0}], None),
        (ComputeOptions(decoders=1, cpus_per_worker=1), [{"CPU": 8.0}], None),
        (ComputeOptions(validators=1, workers=2, cpus_per_worker=1), [{"CPU": 2.0}], None),
    ],
)
def test_what_does_not_fit_is_an_error(
    compute: ComputeOptions, nodes: list[dict[str, float]], concurrency: int | None
) -> None:
    with pytest.raises(InputError, match=r"do not fit the cluster, whose \d node\(s\) hold \d+ such worker"):
        find_room(compute, nodes, concurrency=concurrency, trials=20)


def test_flags_that_make_no_search_are_reported_before_anything_starts(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    space = read_space(str(tmp_path / "space.yaml"), recipe)
    usual = SearchOptions(9, "optuna", "asha", None, None, 3.0)
    assert check_search(recipe, space, usual) == (9, 50)  # CAL's losses begin at 50

    def message(recipe: Recipe, options: SearchOptions) -> str:
        with pytest.raises(UsageError) as error:
            check_search(recipe, space, options)
        return str(error.value)

    no_held_out = recipe.model_copy(update={"train": TrainOptions()})
    assert "--train.held_out_share is 0, but trials are compared on held-out identities" in message(no_held_out, usual)
    staged = recipe.model_copy(update={"train": recipe.train.model_copy(update={"first_stage": "ccvid_csci_stage1"})})
    assert "--train.first_stage ccvid_csci_stage1: a search trains one stage" in message(staged, usual)
    elastic = recipe.model_copy(update={"compute": ComputeOptions(workers=(1, 2))})
    assert "--compute.workers: expected a fixed number" in message(elastic, usual)
    assert "--searcher grid: the space has ranges of floats" in message(
        recipe, SearchOptions(9, "grid", "asha", None, None, 3)
    )
    assert "--trials is missing" in message(recipe, SearchOptions(None, "random", "asha", None, None, 3))
    assert "--grace 60: ASHA cannot stop" in message(recipe, SearchOptions(9, "random", "asha", None, 60, 3))


def test_asha_waits_for_the_losses_that_the_space_is_about(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path).model_copy(update={"method": MethodOptions(start_epoch=25)})
    (tmp_path / "space.yaml").write_text("method.epsilon: {range: [0.0, 1.0]}")
    assert default_grace(recipe, read_space(str(tmp_path / "space.yaml"), recipe)) == 30
    (tmp_path / "space.yaml").write_text("method.start_epoch: {range: [5, 41]}")
    assert default_grace(recipe, read_space(str(tmp_path / "space.yaml"), recipe)) == 50
    baseline = recipe.model_copy(update={"method": MethodOptions(clothes_loss=False)})
    assert default_grace(baseline, read_space("cal", baseline)) == 10
    short = baseline.model_copy(update={"train": TrainOptions(held_out_share=0.1, epochs=10)})
    assert default_grace(short, read_space("cal", short)) == 10  # no validation before the end: see check_search


def test_a_score_that_comes_late_counts_for_its_own_epoch(tmp_path: Path) -> None:
    """Validators report the score of an epoch after checkpoints of later ones."""
    records, recipe, space = made_up(tmp_path, 1)
    record = records.trials[0]
    record.history, record.epoch, record.state = [], 0, "waiting"
    source = TrialSource(records, recipe, space, "random", 1)
    notes, trial = Notes(records, source, lambda: None), SimpleNamespace(config={"number": 0})
    notes.on_trial_start(0, [], trial)
    scores = [(10, 0.3), (20, 0.2)]
    for epoch, late in ((12, None), *scores, (25, None), (20, 0.2)):  # the last again, after a resumption
        scored = {} if late is None else {"held_out_score": late, "best_score": 0.3}
        notes.on_trial_result(0, [], trial, {"epoch": epoch, **scored})
    assert (record.history, record.epoch, record.score, record.best_score) == (scores, 25, 0.2, 0.3)
