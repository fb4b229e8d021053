"""From tracklets and their candidates to persons: groups, outfits, confidence, questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from ccvid.identities.corrections import Corrections
from ccvid.identities.evidence import UNIT
from ccvid.identities.grouping import Doubt, Grouping, Linked, Pairs, components, group
from ccvid.identities.persons import Grouped, Question, by_value
from ccvid.retrieval.ranking.distances import Indices, Scores


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
    decided, apart = (
        [(place_of[one], place_of[other]) for one, other in of] for of in (corrections.same(), corrections.different())
    )
    seen = pairs.exclusions.sightings
    usual = [*_alike(np.array([known.get(id, -1) for id in ids])), *_alike(seen.track_N)]
    kept, released = _without_contradiction(len(ids), decided, apart, usual)
    more = [seen.consecutive(), *(_all_pairs(members) for members in released)]
    found = group(
        pairs,
        tuple(np.concatenate(every) for every in zip(candidates, *more, strict=True)),  # type: ignore[arg-type]
        together=[*decided, *(link for members in kept for link in pairwise(members.tolist()))],
        apart=apart,
    )
    outfit_N, confidence_N = _outfits_and_confidence(pairs, found)
    order_N = np.where(np.isnan(pairs.exclusions.sightings.start_N), np.inf, pairs.exclusions.sightings.start_N)
    grouped = Grouped(tuple(ids), found.group_N, outfit_N, confidence_N, order_N)
    return grouped, _questions(ids, found.doubts, corrections)


def _alike(code_N: Indices) -> list[Indices]:
    """The places of each code that two or more have; −1 is none."""
    order = np.argsort(code_N, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(code_N[order])) + 1)
    return [part for part in parts if len(part) > 1 and code_N[part[0]] >= 0]


def _without_contradiction(
    count: int, decided: Linked, apart: Linked, usual: Sequence[Indices]
) -> tuple[list[Indices], list[Indices]]:
    """Of what usually stays together, what decisions allow to, and what they part.

    Args:
        decided, apart: places that people have decided to be one person, or two.
        usual: places of a known person, and of one track.
    """
    kept, released = list(usual), list[Indices]()
    while True:
        links = [*decided, *(link for members in kept for link in pairwise(members.tolist()))]
        component_N = components(count, links)
        wrong = {int(component_N[one]) for one, other in apart if component_N[one] == component_N[other]}
        parted = [members for members in kept if int(component_N[members[0]]) in wrong]
        if not parted:
            return kept, released
        released += parted
        kept = [members for members in kept if int(component_N[members[0]]) not in wrong]


def _all_pairs(members: Indices) -> tuple[Indices, Indices]:
    first, second = np.triu_indices(len(members), 1)
    return members[first], members[second]


def _outfits_and_confidence(pairs: Pairs, found: Grouping) -> tuple[Indices, Scores]:
    """Outfits from 1 within each group, by their first tracklets; how sure each tracklet is of its group.

    The confidence is the probability of the least probable join that brought it there, NaN if it was there before; of a
    tracklet alone, that it is not the person of the most probable other group.
    """
    outfit_N = np.ones(len(found.group_N), np.int64)
    order = np.argsort(found.group_N, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(found.group_N[order])) + 1):
        if len(members) > 1:
            outfit_N[members] = _outfits(pairs, members)
    confidence_N = np.where(np.isfinite(found.least_N), _probability(found.least_N), np.nan)
    size_N = np.bincount(found.group_N)[found.group_N]
    for doubt in found.doubts:
        for place in (doubt.first, doubt.second):
            if not doubt.joined and size_N[place] == 1:
                confidence_N[place] = np.fmin(confidence_N[place], 1 - _probability(np.array(doubt.log_odds)))
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
    return by_value(found)


def _probability(log_odds: Scores | Indices) -> Scores:
    found: Scores = 1 / (1 + np.exp(-np.asarray(log_odds, np.float64) / UNIT))
    return found
