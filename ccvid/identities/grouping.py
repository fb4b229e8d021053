"""Tracklets into persons: average linkage of log-odds, within what cannot be one person.

Two groups are joined if the mean log-odds over all their pairs of tracklets, with the prior's, are above 0: if it is
more probable than not that they are one person. The most probable two are joined first, equals in order of their first
tracklets, until none is left. A single strong link between two groups does not suffice, and the order of the candidates
does not matter.

Groups whose own mean is not above 0 need no link: joining with others cannot raise a mean above both. So only such
pairs are kept, as a sparse graph, and what one group has not been compared with is compared when it matters.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ccvid.identities.evidence import UNIT, Evidence, Vectors
from ccvid.identities.sightings import Exclusions
from ccvid.retrieval.ranking.distances import Indices, Scores

PAIRS_AT_A_TIME = 4096
MOST_AT_A_TIME = 2**20
"""Of a block's pairs."""

Linked = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Pairs:
    """What is known about any pair of N tracklets."""

    evidence: Evidence
    vectors: Vectors
    exclusions: Exclusions
    prior: int
    """Log-odds in millionths."""

    def log_odds(self, first_P: Indices, second_P: Indices) -> Indices:
        """Of P pairs, in millionths, the prior's included."""
        found_P = np.empty(len(first_P), np.int64)
        for start in range(0, len(first_P), PAIRS_AT_A_TIME):
            part = slice(start, start + PAIRS_AT_A_TIME)
            first, second = first_P[part], second_P[part]
            plain, whitened = (np.einsum("pd,pd->p", each[first], each[second]) for each in self._vectors)
            found_P[part] = self.evidence.log_odds(plain, whitened, self._relation(first, second))
        return found_P + self.prior

    def between(self, here_A: Indices, there_B: Indices) -> Indices:
        """Of each of A tracklets and each of B others: (A, B), as ``log_odds``, to the last digit."""
        step = max(1, MOST_AT_A_TIME // len(here_A))
        parts = [self._block(here_A, there_B[start : start + step]) for start in range(0, len(there_B), step)]
        return np.concatenate(parts, axis=1) + self.prior

    def clothes_log_odds(self, members_A: Indices) -> Indices:
        """That each two of A tracklets of one person show the same clothes: (A, A), in millionths."""
        plain, whitened = (each[members_A] @ each[members_A].T for each in self._vectors)
        return self.evidence.clothes_log_odds(plain, whitened, self._relation(members_A[:, None], members_A[None]))

    def excluded(self, here_A: Indices, there_B: Indices) -> bool:
        """Whether two of them cannot be one person."""
        return bool(self.exclusions.excluded(here_A[:, None], there_B[None]).any())

    @property
    def _vectors(self) -> tuple[Scores, Scores]:
        return self.vectors.plain_ND, self.vectors.whitened_ND

    def _block(self, here_A: Indices, there_B: Indices) -> Indices:
        plain, whitened = (each[here_A] @ each[there_B].T for each in self._vectors)
        return self.evidence.log_odds(plain, whitened, self._relation(here_A[:, None], there_B[None]))

    def _relation(self, first: Indices, second: Indices) -> npt.NDArray[np.int8]:
        return self.exclusions.sightings.relation(first, second)


class Doubt(NamedTuple):
    """Two groups, by their first tracklets: their mean log-odds in millionths, and the most similar two tracklets."""

    log_odds: int
    first: int
    second: int
    size: int
    """Tracklets of the smaller group."""
    joined: bool


@dataclass(frozen=True, slots=True)
class Grouping:
    """``group_N`` int64 is each tracklet's group, named by its first tracklet; ``doubts`` what was nearly otherwise."""

    group_N: Indices
    doubts: Sequence[Doubt]


def group(
    pairs: Pairs,
    candidates: tuple[Indices, Indices],
    *,
    together: Linked = (),
    apart: Linked = (),
    doubtful: float = 2.0,
) -> Grouping:
    """Group N tracklets.

    Args:
        pairs: their evidence.
        candidates: pairs of tracklets that may be one person, as two arrays (P,), in any order; such as each one's
            nearest.
        together: pairs that are one person whatever the evidence and exclusions say.
        apart: pairs that are not.
        doubtful: log-odds in nats, up to which the decision on two groups is a doubt.
    """
    return _Groups(pairs, candidates, together, apart, round(doubtful * UNIT)).joined()


class _Groups:
    """Groups while they grow; each has the number of its first tracklet."""

    def __init__(
        self, pairs: Pairs, candidates: tuple[Indices, Indices], together: Linked, apart: Linked, doubtful: int
    ) -> None:
        self._pairs, self._doubtful = pairs, doubtful
        self._group_N = _components(len(pairs.exclusions.sightings), together)
        order = np.argsort(self._group_N, kind="stable")
        first_G, begin_G = np.unique(self._group_N[order], return_index=True)
        parts = np.split(order, begin_G[1:])
        self._members: dict[int, Indices] = dict(zip(first_G.tolist(), parts, strict=True))
        self._apart: dict[int, set[int]] = {}
        for one, other in apart:
            here, there = int(self._group_N[one]), int(self._group_N[other])
            self._apart.setdefault(here, set()).add(there)
            self._apart.setdefault(there, set()).add(here)
        self._sums: dict[int, dict[int, int]] = {first: {} for first in self._members}
        """Of the log-odds of all pairs of two groups, where it is above 0."""
        self._heap: list[tuple[float, int, int]] = []
        self._near: set[tuple[int, int]] = set()
        """Pairs of tracklets that a doubt may be about."""
        self._joins: list[Doubt] = []
        self._link(*candidates)

    def joined(self) -> Grouping:
        """Join until no two groups are to be."""
        while self._heap:
            mean, one, other = heapq.heappop(self._heap)
            known = self._sums.get(one, {}).get(other)
            if known is not None and -known / self._between(one, other) == mean:
                if self._may_join(one, other):
                    self._join(one, other)
                else:
                    self._forget(one, other)
        return Grouping(self._group_N, [*self._joins, *self._open_doubts()])

    def _link(self, first_P: Indices, second_P: Indices) -> None:
        """Begin with the groups that the candidates link."""
        low_P, high_P = np.minimum(first_P, second_P), np.maximum(first_P, second_P)
        low_P, high_P = np.unique(np.stack([low_P, high_P])[:, low_P < high_P], axis=1)
        apart_P = self._group_N[low_P] != self._group_N[high_P]
        low_P, high_P = low_P[apart_P], high_P[apart_P]
        log_odds_P = self._pairs.log_odds(low_P, high_P)
        near_P = np.abs(log_odds_P) <= 2 * self._doubtful
        self._near.update(zip(low_P[near_P].tolist(), high_P[near_P].tolist(), strict=True))
        likely_P = log_odds_P > 0
        groups_2P = np.sort(self._group_N[np.stack([low_P[likely_P], high_P[likely_P]])], axis=0)
        linked_2L, which_P, count_L = np.unique(groups_2P, axis=1, return_inverse=True, return_counts=True)
        sum_L = np.zeros(len(count_L), np.int64)
        np.add.at(sum_L, which_P.reshape(-1), log_odds_P[likely_P])
        for one, other, total, count in zip(*linked_2L.tolist(), sum_L.tolist(), count_L.tolist(), strict=True):
            whole = count == self._between(one, other)
            self._set(one, other, total if whole else self._sum(self._members[one], [other])[0])

    def _between(self, one: int, other: int) -> int:
        return len(self._members[one]) * len(self._members[other])

    def _sum(self, members: Indices, others: Sequence[int]) -> list[int]:
        """Of the log-odds of all pairs of these tracklets and each of other groups."""
        there = [self._members[other] for other in others]
        total_B = self._pairs.between(members, np.concatenate(there)).sum(axis=0)
        begins = np.cumsum([0, *(len(part) for part in there[:-1])])
        sums: list[int] = np.add.reduceat(total_B, begins).tolist()
        return sums

    def _set(self, one: int, other: int, total: int) -> None:
        """Keep the sum of two groups if they may still be joined."""
        if total <= 0:
            self._forget(one, other)
            return
        self._sums[one][other] = self._sums[other][one] = total
        heapq.heappush(self._heap, (-total / self._between(one, other), min(one, other), max(one, other)))

    def _forget(self, one: int, other: int) -> None:
        self._sums[one].pop(other, None)
        self._sums[other].pop(one, None)

    def _may_join(self, one: int, other: int) -> bool:
        if other in self._apart.get(one, ()):
            return False
        return not self._pairs.excluded(self._members[one], self._members[other])

    def _join(self, kept: int, gone: int) -> None:
        """The group of the later first tracklet becomes part of the other."""
        total = self._sums[kept][gone]
        mean = total // self._between(kept, gone)
        if mean <= self._doubtful:
            self._joins.append(self._doubt(kept, gone, mean, joined=True))
        self._forget(kept, gone)
        linked = sorted({*self._sums[kept], *self._sums[gone]})
        sums = dict.fromkeys(linked, 0)
        for part in (kept, gone):
            unknown = [other for other in linked if other not in self._sums[part]]
            found = self._sum(self._members[part], unknown) if unknown else []
            for other, more in [*zip(unknown, found, strict=True), *self._sums[part].items()]:
                sums[other] += more
        for other in self._sums.pop(gone):
            self._sums[other].pop(gone)
        members = np.concatenate((self._members[kept], self._members.pop(gone)))
        members.sort()
        self._members[kept] = members
        self._group_N[members] = kept
        for other in self._apart.pop(gone, set()):
            self._apart[other].discard(gone)
            self._apart[other].add(kept)
            self._apart.setdefault(kept, set()).add(other)
        for other in linked:
            self._set(kept, other, sums[other])

    def _open_doubts(self) -> list[Doubt]:
        """On pairs of groups that stayed apart although nothing forbids that they are one."""
        asked = {
            (min(here, there), max(here, there))
            for one, other in self._near
            if (here := int(self._group_N[one])) != (there := int(self._group_N[other]))
        }
        found = []
        for one, other in sorted(asked):
            mean = self._sum(self._members[one], [other])[0] // self._between(one, other)
            if -self._doubtful <= mean and self._may_join(one, other):
                found.append(self._doubt(one, other, mean, joined=False))
        return found

    def _doubt(self, one: int, other: int, mean: int, *, joined: bool) -> Doubt:
        here, there = self._members[one], self._members[other]
        log_odds_AB = self._pairs.between(here, there)
        first, second = np.unravel_index(int(np.argmax(log_odds_AB)), log_odds_AB.shape)
        return Doubt(mean, int(here[first]), int(there[second]), min(len(here), len(there)), joined)


def _components(tracklets: int, pairs: Linked) -> Indices:
    """For each tracklet the first of those that it is linked with."""
    first = list(range(tracklets))

    def root(place: int) -> int:
        while first[place] != place:
            first[place] = first[first[place]]
            place = first[place]
        return place

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        first[high] = low
    return np.array([root(place) for place in range(tracklets)], np.int64)
