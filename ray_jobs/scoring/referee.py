"""Several checkpoints on several data sets, each pair scored as ``evaluate.py --checkpoint`` does, in one table.

A pair is a folder of results. What it was asked is written before it is scored, its metrics after all else, so a killed
job goes on with the pairs that are missing or were asked otherwise.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ray.exceptions import RayError

from ccvid.config import Recipe, RunOptions
from ccvid.retrieval.ranking.controls import Controls, score_controls
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.protocol_hash import protocol_hashes
from ccvid.retrieval.report.referee import (
    Kind,
    ProtocolFacts,
    RefereeTable,
    Scored,
    ScoredSet,
    referee_text,
    write_referee,
)
from ccvid.retrieval.results import write_results
from ccvid.run_files import COST_FILE, METRICS_FILE, PAIR_FILE, PAIRS_FOLDER, REFEREE_FILE, REPORT_FOLDER
from data_tools.datasets.released import licence_of
from data_tools.documents import differences, parse_json
from data_tools.errors import InputError
from data_tools.manifest import MANIFEST_NAME
from data_tools.progress import message
from data_tools.shard_cache import open_shards
from data_tools.storage import StorageFolder
from data_tools.wording import one_line
from ray_jobs.cli import show_results
from ray_jobs.cluster.connection import connect
from ray_jobs.scoring.comparison import short_names
from ray_jobs.scoring.embedding import UsedModel, cost_of, read_model
from ray_jobs.scoring.evaluation import labelled_sides, score_model
from ray_jobs.scoring.result_folders import Result, read_result, write_document
from ray_jobs.sharding.shards import compare_checksums, ensure_shards
from video_backbones import BackboneError

TEXT_FILE = "referee.txt"
OWN_NAMES = {PAIRS_FOLDER, TEXT_FILE, REFEREE_FILE, REPORT_FOLDER}
PAIR_ERRORS = (InputError, BackboneError, OSError, RayError, RuntimeError)
"""What ends one pair and not the job: mistakes, torch's errors and those of the cluster's workers."""


@dataclass(frozen=True, slots=True)
class _Set:
    """A data set that can be scored."""

    name: str
    recipe: Recipe
    shards: str
    controls: Controls

    @property
    def manifest(self) -> str:
        """SHA-256 of the manifest, which names every shard's."""
        return hashlib.sha256(StorageFolder(self.shards).read(MANIFEST_NAME)).hexdigest()


def judge(checkpoints: Sequence[StorageFolder], datasets: Mapping[str, Recipe], run: RunOptions) -> None:
    """Score every pair, and print and write the table to the run's folder.

    Args:
        datasets: for each name the recipe with which it is scored.
        run: where the results go.

    Raises:
        InputError: the folder holds something else, the cluster cannot be joined; and at the end, when the table is
            written, if a pair could not be scored or a control is not as it must be.
    """
    folder = StorageFolder(run.storage, run.patience_seconds) / run.name
    if folder.exists() and (alien := set(folder.names()) - OWN_NAMES):
        raise InputError(f"{folder}: contains {min(alien)}, which is not a referee's; choose another --run.name")
    if len(set(map(str, checkpoints))) < len(checkpoints):
        raise InputError("--checkpoints: a checkpoint is named twice")
    folder.check_writable()
    connect()
    table = _score_all(
        dict(zip(short_names([str(place) for place in checkpoints]), checkpoints, strict=True)), datasets, folder
    )
    text = referee_text(table)
    with folder.filled(last=REFEREE_FILE) as path:
        write_referee(table, path / REPORT_FOLDER, f"Referee: {run.name}")
    folder.write(TEXT_FILE, f"{text}\n".encode())
    write_document(folder, REFEREE_FILE, table.to_json())
    message(text)
    show_results(folder)
    _raise_for(table)


def _raise_for(table: RefereeTable) -> None:
    problems = [f"do not trust these figures: {alarm}" for alarm in table.alarms]
    if table.failures:
        pairs = [f"{pair}: {reason}" for pair, reason in table.failures.items()]
        problems.append("\n  ".join([f"{len(pairs)} pair(s) could not be scored:", *pairs]))
    if problems:
        raise InputError("\n".join(problems))


def _score_all(
    checkpoints: Mapping[str, StorageFolder], datasets: Mapping[str, Recipe], folder: StorageFolder
) -> RefereeTable:
    sets: list[ScoredSet] = []
    failures: dict[str, str] = {}
    for name, recipe in datasets.items():
        try:
            found = _open(name, recipe)
            scored = [_control(found, "oracle", folder), _control(found, "random", folder)]
        except PAIR_ERRORS as error:
            failures |= {_pair(model, name): one_line(error) for model in checkpoints}
            message(f"{name}: left out: {error}")
            continue
        for model, place in checkpoints.items():
            try:
                scored.append(_score_pair(model, place, found, folder))
            except PAIR_ERRORS as error:
                failures[_pair(model, name)] = one_line(error)
                message(f"{_pair(model, name)}: left out: {error}")
        sets.append(_described(found, scored))
    return RefereeTable(sets, failures)


def _pair(model: str, dataset: str) -> str:
    return f"{model} on {dataset}"


def _open(name: str, recipe: Recipe) -> _Set:
    """The data set with its controls, which need only labels."""
    shards = ensure_shards(recipe.data)
    compare_checksums(recipe.data)
    store = open_shards(shards, recipe.data.cache)
    query, gallery = (RetrievalLabels.from_rows(store.rows.take(rows)) for rows in labelled_sides(store, shards))
    return _Set(name, recipe, shards, score_controls(query, gallery, recipe.score))


def _described(found: _Set, scored: Sequence[Scored]) -> ScoredSet:
    oracle = found.controls.oracle.evaluation
    hashes = protocol_hashes(oracle)
    facts = {
        name: ProtocolFacts(
            result.protocol.describe(),
            result.queries - result.queries_without_match,
            len(set(np.asarray(oracle.query.person)[result.has_match])),
            hashes[name],
            result.chance,
        )
        for name, result in oracle.results.items()
    }
    return ScoredSet(found.name, licence_of(found.recipe.data.kind), facts, scored, found.controls.problems)


def _control(found: _Set, kind: Literal["oracle", "random"], folder: StorageFolder) -> Scored:
    """A control's results, written and read as those of a model are."""
    place = _place(folder, kind, found, kind)
    options = found.recipe.score.model_copy(update={"report": False, "post_processing": False})
    control = found.controls.oracle if kind == "oracle" else found.controls.random
    with place.filled(last=METRICS_FILE) as path:
        title = f"{kind} on {found.name}"
        write_results(path, control, options, model=kind, title=title, facts={"source": kind, "shards": found.shards})
    return _scored(kind, kind, read_result(place))


def _score_pair(name: str, checkpoint: StorageFolder, found: _Set, folder: StorageFolder) -> Scored:
    """The results of a pair, which is scored unless it has been.

    Raises:
        InputError, BackboneError, OSError: see ``score_checkpoint``.
    """
    used = read_model(checkpoint, found.recipe.model)
    place = _place(folder, name, found, str(checkpoint))
    asked = _asked(used, checkpoint, found)
    if not _is_scored(place, asked):
        message(f"{_pair(name, found.name)}: scoring")
        write_document(place, PAIR_FILE, asked)
        write_document(place, COST_FILE, cost_of(used, found.recipe).model_dump(mode="json"))
        score_model(used, found.recipe, checkpoint, place)
    return _scored(name, "model", read_result(place))


def _is_scored(place: StorageFolder, asked: dict[str, object]) -> bool:
    """Whether the pair has its metrics, as they are asked now; what was asked otherwise is deleted."""
    try:
        there = parse_json(place.read(PAIR_FILE), place / PAIR_FILE)
    except FileNotFoundError:
        return False
    if changed := differences(there, asked):
        message(f"{place}: scored again: {'; '.join(changed)}")
        place.delete("")
        return False
    return place.exists(METRICS_FILE) and place.exists(COST_FILE)


def _asked(used: UsedModel, checkpoint: StorageFolder, found: _Set) -> dict[str, object]:
    """All that a pair's figures depend on."""
    recipe = used.applied_to(found.recipe)
    return {
        "checkpoint": str(checkpoint),
        "weights": used.fingerprint,
        "shards": found.shards,
        "manifest": found.manifest,
        "clip": recipe.clip.model_dump(mode="json"),
        "frames": [recipe.model.height, recipe.model.width, recipe.model.resize_filter],
        "bf16": recipe.train.bf16,
        "score": recipe.score.model_dump(mode="json"),
        "report": recipe.report.model_dump(mode="json"),
    }


def _place(folder: StorageFolder, name: str, found: _Set, source: str) -> StorageFolder:
    """A pair's folder, the same in every run: names for people, a digest against those that are alike."""
    digest = hashlib.sha256(f"{source}\n{found.shards}".encode()).hexdigest()[:8]
    shown = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{name}-on-{found.name}").strip("-.")[:80]
    return folder / PAIRS_FOLDER / f"{shown}-{digest}"


def _scored(name: str, kind: Kind, result: Result) -> Scored:
    page = f"{REPORT_FOLDER}/index.html"
    has_page = result.place.exists(page)
    address = f"../{PAIRS_FOLDER}/{result.place.name}/{page}" if has_page else None
    return Scored(name, kind, result.figures, result.gap, result.cost, address)
