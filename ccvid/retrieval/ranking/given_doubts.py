"""Junk, distractors and likely mistakes in distances and features of other programs."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ccvid.retrieval.ranking.distances import Floats
from ccvid.retrieval.ranking.given import GivenRetrieval
from ccvid.retrieval.ranking.metrics import Evaluation, ProtocolResult
from data_tools.datasets.label_table import UNKNOWN
from data_tools.errors import InputError


def without_junk(given: GivenRetrieval) -> tuple[GivenRetrieval, list[str]]:
    """Apply the conventions of Market-1501; returns the retrieval and notes on what was done.

    Entries of person -1 (or a word for unknown) are junk, left out of queries and gallery as in the released
    evaluations. Gallery entries of person 0 are distractors, wrong answers to every query; they need no special
    treatment, because no query is of person 0. If one is, persons are numbered from 0, and 0 is an ordinary person.

    Raises:
        InputError: everything is junk.
    """
    notes: list[str] = []
    kept = []
    for labels, what in ((given.query, "queries"), (given.gallery, "gallery entries")):
        junk = Counter(person for person in labels.person if person.lower() in UNKNOWN)
        is_kept_N = np.fromiter((person not in junk for person in labels.person), np.bool_, len(labels))
        kept.append(np.flatnonzero(is_kept_N))
        if junk:
            names = ", ".join(sorted(junk))
            count = sum(junk.values())
            if count == len(labels):
                raise InputError(f"all {count} {what} are junk (person {names}); see --keep-junk")
            notes.append(f"{count} of {len(labels)} {what} left out as junk (person {names}); see --keep-junk")
    if any(len(rows) < len(labels) for rows, labels in zip(kept, (given.query, given.gallery), strict=True)):
        query_rows, gallery_rows = kept
        given = GivenRetrieval(
            given.distances.take(query_rows, gallery_rows),
            given.query.take(query_rows),
            given.gallery.take(gallery_rows),
        )
    distractors = sum(_is_zero(person) for person in given.gallery.person)
    if distractors and not any(map(_is_zero, given.query.person)):
        notes.append(f"{distractors} gallery entries of person 0 are distractors: wrong answers to every query")
    return given, notes


def _is_zero(person: str) -> bool:
    return bool(person) and not person.strip("0")


def doubts_of_order(evaluation: Evaluation, *, similarities: bool) -> list[str]:
    """A warning for each protocol whose mAP is below that of a random order.

    Args:
        similarities: whether the values could be similarities instead of distances.
    """
    return [
        f"{name.replace('_', '-')}: mAP {result.mean_average_precision:.1%} is below the {chance:.1%} of a random order"
        + (": are these similarities? Distances are expected, smaller is nearer" if similarities else "")
        for name, result in evaluation.results.items()
        if result.mean_average_precision < (chance := float(np.mean(random_precision(result))))
    ]


def random_precision(result: ProtocolResult) -> Floats:
    """Expected average precision of a random order, (queries with a match,).

    With n matches among N entries it is (H + (n - 1) (N - H) / (N - 1)) / N, where H is the N-th harmonic number.
    """
    has_match = result.has_match
    matches = np.bincount(result.match_query_M, minlength=len(has_match))[has_match].astype(np.float64)
    entries = np.rint(matches / result.chance_Q[has_match])
    harmonic = np.cumsum(1 / np.arange(1, int(entries.max()) + 1))[entries.astype(np.int64) - 1]
    others = (entries - harmonic) / np.maximum(entries - 1, 1)
    precision: Floats = (harmonic + (matches - 1) * others) / entries
    return precision
