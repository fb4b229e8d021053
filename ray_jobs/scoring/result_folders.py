"""Reading finished folders of results: their figures, the scores of each query and what the model costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from ccvid.model_cost import ModelCost
from ccvid.retrieval.ranking.bootstrap import Interval, group_difference
from ccvid.retrieval.ranking.comparison import QueryScores, read_query_scores
from ccvid.retrieval.report.referee import Figures
from ccvid.run_files import COST_FILE, METRICS_FILE, QUERIES_FILE
from data_tools.documents import parse_model
from data_tools.errors import InputError
from data_tools.storage import StorageFolder


class _Interval(BaseModel):
    value: float
    low: float
    high: float

    def made(self) -> Interval:
        return Interval(self.value, self.low, self.high)


class _Intervals(BaseModel):
    map: _Interval
    cmc: dict[str, _Interval]
    persons: int


class StoredMetrics(BaseModel):
    """What is read of ``metrics.json``."""

    intervals: dict[str, _Intervals]
    hashes: dict[str, str] = {}
    dataset: str | None = None
    shards: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A folder of results; ``scores`` are by protocol."""

    place: StorageFolder
    metrics: StoredMetrics
    scores: Mapping[str, QueryScores]
    cost: ModelCost | None

    @property
    def figures(self) -> dict[str, Figures]:
        """Each protocol's figures."""
        return {
            name: Figures(
                found.map.made(),
                found.cmc["1"].made(),
                len(self.scores[name].ids),
                found.persons,
                self.metrics.hashes[name],
            )
            for name, found in self.metrics.intervals.items()
        }

    @property
    def gap(self) -> Interval | None:
        """mAP same-clothes minus clothes-changing; None if one of them was not scored."""
        if not {"same_clothes", "clothes_changing"} <= self.scores.keys():
            return None
        changing, same = self.scores["clothes_changing"], self.scores["same_clothes"]
        precision_N = np.concatenate([changing.figures["map"], same.figures["map"]])
        is_same_N = np.arange(len(precision_N)) >= len(changing.ids)
        return group_difference(precision_N, is_same_N, [*changing.person, *same.person])


def read_result(place: StorageFolder) -> Result:
    """Read a folder of results.

    Raises:
        InputError: there are none, they are damaged, or an earlier version wrote them.
    """
    try:
        metrics = parse_model(StoredMetrics, place.read(METRICS_FILE), place / METRICS_FILE)
        with place.fetched(QUERIES_FILE) as path:
            scores = read_query_scores(path)
    except FileNotFoundError:
        raise InputError(f"{place}: no {METRICS_FILE}; give folders of results of train.py or evaluate.py") from None
    protocols = metrics.intervals.keys()
    if lacking := protocols - metrics.hashes.keys():
        raise InputError(
            f"{place}: {METRICS_FILE} has no hash of {', '.join(sorted(lacking))}, so nobody can tell what it may be "
            "compared with; an earlier version wrote it, score it again"
        )
    if lacking := protocols - scores.keys():
        raise InputError(f"{place}: {QUERIES_FILE} has no {', '.join(sorted(lacking))}, which {METRICS_FILE} has")
    return Result(place, metrics, scores, read_cost(place))


def read_cost(place: StorageFolder) -> ModelCost | None:
    """What was measured of the model; None if nothing was.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return parse_model(ModelCost, place.read(COST_FILE), place / COST_FILE)
    except FileNotFoundError:
        return None


def write_document(place: StorageFolder, name: str, content: object) -> None:
    """Write a JSON file into a folder."""
    place.write(name, (json.dumps(content, indent=1) + "\n").encode())
