"""The results of a search: tables, a picture, the importance of the fields, and the best setting as a recipe."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from ccvid.config import Recipe
from ccvid.retrieval.report.figures import svg_of
from ccvid.run_files import BEST_FOLDER
from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.storage import StorageFolder
from ray_jobs.cli import write_config
from ray_jobs.tuning.picture import draw_parallel_coordinates
from ray_jobs.tuning.propose import study_of, to_optuna_trial
from ray_jobs.tuning.records import SearchRecords, TrialRecord
from ray_jobs.tuning.space import Space, with_values
from ray_jobs.tuning.tables import results_table, text_table

TABLE_FILE, PARQUET_FILE, PICTURE_FILE = "trials.txt", "trials.parquet", "parallel_coordinates.svg"
IMPORTANCE_FILE, BEST_FILE = "importance.json", "best.yaml"

FEWEST_TRIALS = 4
"""Least number of scored trials for computing importance."""
FEW_TRIALS = 30
"""With fewer trials, importance is marked as unreliable."""


def write_results(records: SearchRecords, recipe: Recipe, space: Space) -> None:
    """Write everything into the search's folder; ``best.yaml`` last.

    Args:
        recipe: the search's recipe, with the workers per trial decided.

    Raises:
        InputError: every trial failed.
    """
    best = records.best(recipe.train)
    if best is None:
        first = records.trials[0]
        raise InputError(f"{records.folder}: all {len(records.trials)} trials failed; {first.name}: {first.reason}")
    folder, title = records.folder, f"search {recipe.run.name}, {len(records.trials)} trials"
    folder.write(TABLE_FILE, (results_table(records, recipe.train, title) + "\n").encode())
    folder.write(PARQUET_FILE, _parquet(records, space))
    folder.write(PICTURE_FILE, svg_of(draw_parallel_coordinates(records.trials, space, recipe.train, title)))
    ranking = importance(records, space)
    folder.write(IMPORTANCE_FILE, (json.dumps(ranking, indent=1) + "\n").encode())
    folder.write(IMPORTANCE_FILE.replace(".json", ".txt"), (importance_text(ranking) + "\n").encode())
    folder.write(BEST_FILE, best_recipe(records, best, recipe).encode())


def show_results(records: SearchRecords, recipe: Recipe) -> None:
    """Print the tables and the paths of the results."""
    folder, best = records.folder, records.best(recipe.train)
    assert best is not None
    message(folder.read(TABLE_FILE).decode(errors="replace"))
    message(importance_text(json.loads(folder.read(IMPORTANCE_FILE))))
    message(f"\nresults: {folder}")
    message(f"picture: {folder / PICTURE_FILE}")
    run = trial_folder(folder, best)
    weights = run / BEST_FOLDER if recipe.train.test_weights == "best" else f"the last checkpoint under {run}"
    message(f"best trial: {best.name}, {best.counted_score(recipe.train):.1%}; its weights: {weights}")
    message(f"train it: python ray_jobs/train.py --recipe {folder / BEST_FILE}")


def trial_folder(folder: StorageFolder, record: TrialRecord) -> StorageFolder:
    """A trial's run folder."""
    return folder / "trials" / record.name


def best_recipe(records: SearchRecords, best: TrialRecord, recipe: Recipe) -> str:
    """The best trial's complete recipe as YAML, for a separate run beside the search."""
    name = f"{recipe.run.name}-best"
    score = best.counted_score(recipe.train)
    head = (
        f"# The best of {len(records.trials)} trials of the search {recipe.run.name}: {best.name} ({best.state}, "
        f"epoch {best.epoch} of {best.epochs}),\n"
        f"# with {score:.2%} clothes-changing mAP on the held-out training identities.\n"
        + "".join(f"#   {field}: {json.dumps(value)}\n" for field, value in best.values.items())
    )
    return head + write_config(with_values(recipe, {**best.values, "run.name": name}))


def importance(records: SearchRecords, space: Space) -> dict[str, Any]:
    """Share of the scores' variance that each searched field explains, by Optuna's fANOVA (Hutter et al., 2014).

    Trials are compared by their score after the last epoch that all of them reached.

    Returns:
        ``{"method", "trials", "epoch", "note", "importance": {field: share}}``; without shares if they cannot be
        computed, in which case the note says why.
    """
    scored = [record for record in records.trials if record.state in ("finished", "stopped") and record.history]
    epoch = min((record.epoch for record in scored), default=0)
    scores = {record.number: score for record in scored if (score := record.score_at(epoch)) is not None}
    found = {"method": "fANOVA of Optuna", "trials": len(scores), "epoch": epoch}
    varied = [each.name for each in space.parameters if each.count != 1]
    if len(scores) < FEWEST_TRIALS:
        note = f"too few trials: {len(scores)} with a score, expected at least {FEWEST_TRIALS}"
        return {**found, "note": note} | _NONE
    if not varied or len(set(scores.values())) == 1:
        return {**found, "note": "all trials have the same score or setting"} | _NONE
    trials = [to_optuna_trial(space, record, scores[record.number]) for record in scored if record.number in scores]
    shares = get_param_importances(study_of(trials, 0), evaluator=FanovaImportanceEvaluator(seed=0), params=varied)
    note = f"unreliable: fewer than {FEW_TRIALS} trials" if len(scores) < FEW_TRIALS else ""
    return {**found, "note": note, "importance": {name: round(share, 4) for name, share in shares.items()}}


_NONE: dict[str, Any] = {"importance": {}}


def importance_text(ranking: dict[str, Any]) -> str:
    """The importance as a table."""
    head = (
        f"What explains the scores of {ranking['trials']} trials after epoch {ranking['epoch']} ({ranking['method']})"
    )
    rows = [(f"{share:.0%}", name) for name, share in ranking["importance"].items()]
    note = [ranking["note"]] if ranking["note"] else []
    return "\n".join([head, *note, *(text_table(("share", "field"), rows, indent="  ") if rows else ())])


def _parquet(records: SearchRecords, space: Space) -> bytes:
    """One row per trial, sorted by number; a column for each searched field under its dotted name."""
    trials = records.trials
    columns = {
        "trial": pa.array([record.name for record in trials]),
        "state": pa.array([record.state for record in trials]),
        "epoch": pa.array([record.epoch for record in trials], pa.int64()),
        "epochs": pa.array([record.epochs for record in trials], pa.int64()),
        "score": pa.array([record.score for record in trials], pa.float64()),
        "best_score": pa.array([record.best_score for record in trials], pa.float64()),
        "seconds": pa.array([record.seconds for record in trials], pa.float64()),
        "reason": pa.array([record.reason for record in trials], pa.string()),
    }
    for parameter in space.parameters:
        columns[parameter.name] = _column([record.values[parameter.name] for record in trials])
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def _column(values: list[Any]) -> pa.Array:
    """Values of one type unchanged; lists and mixed types as JSON text."""
    kinds = {type(value) for value in values}
    if (len(kinds) == 1 and kinds <= {bool, int, float, str}) or kinds == {int, float}:
        return pa.array(values)
    return pa.array([json.dumps(value) for value in values])
