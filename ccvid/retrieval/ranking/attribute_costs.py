"""What makes queries hard: how much lower the average precision is where a label has a certain value.

For example a value of −12 % for "camera pair: gate → yard" means that queries of the gate that are searched in the yard
have an average precision 12 points lower than the rest. It tells where a model stands, not why: values may come
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ccvid.retrieval.ranking.bootstrap import DRAWS, Interval, group_difference
from ccvid.retrieval.ranking.distances import Distances, Floats
from ccvid.retrieval.ranking.labels import RetrievalLabels, distinct_labels
from ccvid.retrieval.ranking.metrics import score_protocols
from ccvid.retrieval.ranking.protocols import Protocol

LEAST_PERSONS = 3
"""A value that fewer people have, or all but fewer, says more about them than about the value."""
MOST_VALUES = 40
"""An attribute with more is a name, such as that of a video."""


@dataclass(frozen=True, slots=True)
class Observations:
    """N average precisions with the persons and the values of one attribute, None where it is unknown."""

    attribute: str
    precision_N: Floats
    person: Sequence[str]
    value: Sequence[str | None]


@dataclass(frozen=True, slots=True)
class ValueCost:
    """A value's mean average precision and how far it lies from that of all other values; fractions."""

    attribute: str
    value: str
    queries: int
    persons: int
    mean: float
    difference: Interval

    def to_json(self) -> dict[str, object]:
        return {
            "attribute": self.attribute,
            "value": self.value,
            "queries": self.queries,
            "persons": self.persons,
            "map": self.mean,
            "difference": self.difference.to_json(),
        }


def value_costs(attributes: Sequence[Observations], *, draws: int = DRAWS) -> tuple[list[ValueCost], dict[str, str]]:
    """The cost of every value that can be compared, what costs most first, and why attributes are left out."""
    found: list[ValueCost] = []
    left_out: dict[str, str] = {}
    for observed in attributes:
        values = {value for value in observed.value if value is not None}
        if len(values) < 2:
            left_out[observed.attribute] = "only one value" if values else "not known"
        elif len(values) > MOST_VALUES:
            left_out[observed.attribute] = f"{len(values)} values; at most {MOST_VALUES} can be compared"
        elif costs := [cost for value in sorted(values) if (cost := _cost(observed, value, draws)) is not None]:
            found += costs
        else:
            left_out[observed.attribute] = f"no value with {LEAST_PERSONS} persons on both sides"
    return sorted(found, key=lambda cost: (cost.difference.value, cost.attribute, cost.value)), left_out


def _cost(observed: Observations, value: str, draws: int) -> ValueCost | None:
    known_N = np.array([other is not None for other in observed.value])
    is_member_N = np.array([other == value for other in observed.value])[known_N]
    person_N = np.asarray(observed.person)[known_N]
    persons, others = (len(np.unique(person_N[chosen_N])) for chosen_N in (is_member_N, ~is_member_N))
    if min(persons, others) < LEAST_PERSONS:
        return None
    precision_N = observed.precision_N[known_N]
    difference = group_difference(precision_N, is_member_N, person_N.tolist(), draws=draws)
    mean = float(precision_N[is_member_N].mean())
    return ValueCost(observed.attribute, value, int(is_member_N.sum()), persons, mean, difference)


def camera_precision(
    distances: Distances, query: RetrievalLabels, gallery: RetrievalLabels, protocol: Protocol
) -> Floats:
    """Each query's average precision on each of the gallery's C cameras by itself, in order of their names: (Q, C).

    NaN where a query has no match. One pass over all distances in total.
    """
    camera_G = np.array(list(gallery.camera))
    precision_QC = np.full((len(query), len(distinct_labels(gallery.camera))), np.nan)
    for number, camera in enumerate(sorted(distinct_labels(gallery.camera))):
        rows = np.flatnonzero(camera_G == camera)
        part = distances.take(np.arange(len(query)), rows)
        results, _ = score_protocols(part, query, gallery.take(rows), [protocol])
        if protocol.name in results:
            precision_QC[:, number] = results[protocol.name].average_precision_Q
    return precision_QC


def camera_pairs(precision_QC: Floats, query: RetrievalLabels, gallery: RetrievalLabels) -> Observations:
    """What ``camera_precision`` gives, or its mean over several models, by pair of cameras."""
    cameras = sorted(distinct_labels(gallery.camera))
    query_N, camera_N = np.nonzero(~np.isnan(precision_QC))
    return Observations(
        "camera pair",
        precision_QC[query_N, camera_N],
        [query.person[row] for row in query_N.tolist()],
        [f"{query.camera[row]} → {cameras[camera]}" for row, camera in zip(query_N.tolist(), camera_N, strict=True)],
    )


def label_observations(
    precision_Q: Floats, query: RetrievalLabels, further: Mapping[str, Sequence[str | None]], skip: Sequence[str]
) -> list[Observations]:
    """Of the queries' camera and attributes, but for ``skip``, and of further columns (Q,)."""
    columns = {"camera": query.camera, **query.attributes, **further}
    return [
        Observations(name, precision_Q, query.person, list(column))
        for name, column in columns.items()
        if name not in skip
    ]
