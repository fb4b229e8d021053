"""Ranks, metrics and searches: the device's must equal the CPU's to the last digit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TypeVar

import numpy as np
import torch

from ccvid.retrieval.gallery.search import search
from ccvid.retrieval.ranking.distances import CosineDistances
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from ccvid.retrieval.ranking.ranks import rank_persons
from tests.benchmarks.bench_retrieval import THREE, as_labels, problem
from tests.benchmarks.gpu.task import Task

NEAREST = 20
Result = TypeVar("Result")


def run(task: Task) -> None:
    queries, entries, dimensions = task.sizes.ranks
    random = np.random.default_rng(2)
    query_QD, gallery_GD = (random.standard_normal((rows, dimensions), np.float32) for rows in (queries, entries))
    gallery_GD[entries // 2 :: 7] = gallery_GD[0 : len(gallery_GD[entries // 2 :: 7])]  # ties
    codes = problem(queries, entries)
    places = {"CPU": torch.device("cpu"), str(task.device.type): task.device}
    distances = {name: CosineDistances(query_QD, gallery_GD, device=place) for name, place in places.items()}
    on_cpu, on_device = distances["CPU"], distances[str(task.device.type)]

    person = codes[0]["person"], codes[1]["person"]
    (pairs, others), seconds = _timed(lambda: rank_persons(on_device, *person, NEAREST))
    (cpu_pairs, cpu_others), cpu_seconds = _timed(lambda: rank_persons(on_cpu, *person, NEAREST))
    task.results.fact(f"rank_persons of {queries:,} x {entries:,}: seconds", seconds)
    task.results.fact(f"rank_persons of {queries:,} x {entries:,}: seconds on the CPU", cpu_seconds)
    task.results.equal("rank_persons: pairs, distances and ranks", _same(pairs, cpu_pairs))
    task.results.equal(f"rank_persons: the {NEAREST} nearest others", _same(others, cpu_others))

    labels = [as_labels(side, prefix) for side, prefix in zip(codes, "qg", strict=True)]
    chosen = [PROTOCOLS[name] for name in THREE]
    scores = [evaluate(side, *labels, protocols=chosen).results for side in (on_device, on_cpu)]
    for name in THREE:
        here, there = (result[name] for result in scores)
        task.results.equal(f"mAP and first ranks, {name}", _same(here, there))

    camera = codes[0]["camera"], codes[1]["camera"]
    for what, exclude in (("", []), (", without the query's camera", [camera])):
        found, expected = (
            search(query_QD, gallery_GD, NEAREST, exclude=exclude, device=place) for place in places.values()
        )
        task.results.equal(f"top-{NEAREST} search{what}: entries and scores", _same(found, expected))


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def _same(found: object, expected: object) -> bool:
    """Whether two results are equal in all fields; NaN equals NaN."""
    if isinstance(found, np.ndarray) and isinstance(expected, np.ndarray):
        return np.array_equal(found, expected, equal_nan=found.dtype.kind == "f")
    if is_dataclass(found):
        names = [field.name for field in fields(found)]
        return all(_same(getattr(found, name), getattr(expected, name)) for name in names)
    return found == expected
