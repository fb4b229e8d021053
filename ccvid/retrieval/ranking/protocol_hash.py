"""A hash of what a protocol asks of a retrieval: equal hashes mean that two results answer the same question.

    the rule          what agrees, differs and is left out
    the two sides     queries and gallery that take part: their ids, persons and the labels that the rule looks at

Nothing else counts: neither the order of the tracklets nor how they are stored. So it is the same on every machine.
"""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa
import pyarrow.compute as pc

from ccvid.retrieval.ranking.labels import ArrowColumn, Column, RetrievalLabels
from ccvid.retrieval.ranking.metrics import Evaluation
from ccvid.retrieval.ranking.protocols import Protocol

RULE = "ccvid protocol 1: the query itself and entries of its person that are no match are junk; ties in gallery order"
"""What all protocols have in common; another text where the meaning of a figure changes."""
SHOWN = 10
"""Digits that people compare."""


def protocol_hash(protocol: Protocol, query: RetrievalLabels, gallery: RetrievalLabels) -> str:
    """SHA-256, 64 hexadecimal digits."""
    columns = ("id", "person", *sorted({*protocol.agree, *protocol.differ}))
    sides = []
    for whole in (query, gallery):
        labels = whole.take(protocol.taking_part(whole)) if protocol.within else whole
        order = pc.sort_indices(_arrow(labels.ids))
        sides.append([_digest(_arrow(labels.column(column)).take(order)) for column in columns])
    asked = {
        "rule": RULE,
        "agree": sorted(protocol.agree),
        "differ": sorted(protocol.differ),
        "within": {column: sorted(chosen) for column, chosen in sorted(protocol.within.items())},
        "columns": columns,
        "sides": sides,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def protocol_hashes(evaluation: Evaluation) -> dict[str, str]:
    """The hash of each protocol that was scored, by its name."""
    sides = evaluation.query, evaluation.gallery
    return {name: protocol_hash(result.protocol, *sides) for name, result in evaluation.results.items()}


def _arrow(column: Column) -> pa.Array:
    return column.values.cast(pa.string()) if isinstance(column, ArrowColumn) else pa.array(column, pa.string())


def _digest(texts: pa.Array) -> str:
    return hashlib.sha256(json.dumps(texts.to_pylist()).encode()).hexdigest()
