"""From tracklets and their candidates to persons: groups, outfits, confidence, questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ccvid.identities.corrections import Corrections
from ccvid.identities.evidence import UNIT
from ccvid.identities.grouping import Doubt, Grouping, Pairs, group
from ccvid.identities.register import Grouped
from ccvid.retrieval.ranking.distances import Indices, Scores


@dataclass(frozen=True, slots=True)
class Question:
    """Are two tracklets one person? ``probability`` is that of their groups; ``together`` what was decided."""

    first: str
    second: str
    probability: float
    together: bool
    value: float
    """Expected number of tracklets that an answer puts right."""


def identify(
    ids: Sequence[str],
    pairs: Pairs,
    candidates: tuple[Indices, Indices],
    corrections: Corrections,
    *,
    known: Mapping[str, int],
) -> tuple[Grouped, list[Question]]:
    """Group tracklets into persons.

    Args:
        ids: of N tracklets, sorted.
        pairs: their evidence.
        candidates: pairs (P,), (P,) that may be one person.
        corrections: about these tracklets.
        known: the person's number of those that have one: they stay together, unless a correction parts them.
    """
    place_of = {id: place for place, id in enumerate(ids)}
    apart = [(place_of[one], place_of[other]) for one, other in corrections.different()]
    together = [(place_of[one], place_of[other]) for one, other in corrections.same()]
    parted = _parted(known, corrections)
    by_person: dict[int, int] = {}
    for id in ids:
        if (number := known.get(id)) is not None and number not in parted:
            first = by_person.setdefault(number, place_of[id])
            together.append((first, place_of[id]))
    more = _within(known, parted, place_of)
    found = group(
        pairs,
        tuple(np.concatenate(both) for both in zip(candidates, more, strict=True)),  # type: ignore[arg-type]
        together=together,
        apart=apart,
    )
    outfit_N, confidence_N = _outfits_and_confidence(pairs, found)
    order_N = np.where(np.isnan(pairs.exclusions.sightings.start_N), np.inf, pairs.exclusions.sightings.start_N)
    grouped = Grouped(tuple(ids), found.group_N, outfit_N, confidence_N, order_N)
    return grouped, _questions(ids, found.doubts, corrections)


def _parted(known: Mapping[str, int], corrections: Corrections) -> set[int]:
    """Persons of whom two tracklets are decided to be different."""
    return {
        known[one]
        for one, other in corrections.different()
        if known.get(one) is not None and known.get(one) == known.get(other)
    }


def _within(known: Mapping[str, int], parted: set[int], place_of: Mapping[str, int]) -> tuple[Indices, Indices]:
    """All pairs of the tracklets of these persons, who are grouped anew."""
    pairs = [np.empty((2, 0), np.int64)]
    for number in sorted(parted):
        places = np.array([place for id, place in place_of.items() if known.get(id) == number])
        pairs.append(places[np.stack(np.triu_indices(len(places), 1))])
    first_P, second_P = np.concatenate(pairs, axis=1)
    return first_P, second_P


def _outfits_and_confidence(pairs: Pairs, found: Grouping) -> tuple[Indices, Scores]:
    """Outfits from 1 within each group, by their first tracklets; how sure each tracklet is of its group.

    The confidence is the probability of the mean log-odds to the group's others; of a tracklet alone, that it is not
    the person of the most probable other group.
    """
    outfit_N, confidence_N = np.ones(len(found.group_N), np.int64), np.ones(len(found.group_N))
    order = np.argsort(found.group_N, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(found.group_N[order])) + 1):
        if len(members) > 1:
            between = pairs.between(members, members)
            others = between.sum(axis=1) - between.diagonal()
            confidence_N[members] = _probability(others / (len(members) - 1))
            outfit_N[members] = _outfits(pairs, members)
    size_N = np.bincount(found.group_N)[found.group_N]
    for doubt in found.doubts:
        for place in (doubt.first, doubt.second):
            if not doubt.joined and size_N[place] == 1:
                confidence_N[place] = min(confidence_N[place], 1 - float(_probability(np.array(doubt.log_odds))))
    return outfit_N, confidence_N


def _outfits(pairs: Pairs, members: Indices) -> Indices:
    """Average linkage of the log-odds that the clothes are the same, given that the person is."""
    total_SS = pairs.clothes_log_odds(members).astype(np.float64)
    np.fill_diagonal(total_SS, -np.inf)
    count_S, outfit_S = np.ones(len(members)), np.arange(len(members))
    for _ in members[1:]:
        mean_SS = total_SS / np.outer(count_S, count_S)
        kept, gone = sorted(divmod(int(np.argmax(mean_SS)), len(members)))
        if mean_SS[kept, gone] <= 0:
            break
        total_SS[kept] += total_SS[gone]
        total_SS[:, kept] = total_SS[kept]
        total_SS[gone] = total_SS[:, gone] = total_SS[kept, kept] = -np.inf
        count_S[kept] += count_S[gone]
        outfit_S[outfit_S == gone] = kept
    return np.unique(outfit_S, return_inverse=True)[1].astype(np.int64) + 1


def _questions(ids: Sequence[str], doubts: Sequence[Doubt], corrections: Corrections) -> list[Question]:
    """The most valuable first: that whose answer is expected to put most tracklets right."""
    found = []
    for doubt in doubts:
        first, second = sorted((ids[doubt.first], ids[doubt.second]))
        if (first, second) in corrections.pairs:
            continue
        probability = float(_probability(np.array(doubt.log_odds)))
        wrong = 1 - probability if doubt.joined else probability
        found.append(Question(first, second, probability, doubt.joined, wrong * doubt.size))
    return sorted(found, key=lambda question: (-question.value, question.first, question.second))


def _probability(log_odds: Scores | Indices) -> Scores:
    found: Scores = 1 / (1 + np.exp(-np.asarray(log_odds, np.float64) / UNIT))
    return found
