"""Tracklets into persons: average linkage of log-odds, within what cannot be one person.

Two groups are joined if their log-odds are above 0, if it is more probable than not that they are one person: the mean
of the resemblance over all their pairs of tracklets, with the prior's, and the sum of what motion says of the few pairs
that follow one another. The most probable two are joined first, equals in order of their first tracklets, until none is
left. A single strong resemblance between two groups does not suffice, and the order of the candidates does not matter.

Groups need no link if neither their log-odds nor what motion says of them is above 0: joining with others cannot raise
them above that. So the other pairs are a sparse graph, and what a group has not been compared with is compared when it
matters.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ccvid.identities.evidence import UNIT, Evidence, UnitVectors, cosines
from ccvid.identities.sightings import Exclusions
from ccvid.retrieval.ranking.distances import Indices, Scores

DOUBTFUL = 2.0
"""Log-odds in nats, up to which the decision on two groups is a doubt."""
MOST_AT_A_TIME = 2**20
"""Of a block's pairs."""

Linked = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Pairs:
    """What is known about any pair of N tracklets."""

    evidence: Evidence
    vectors: UnitVectors
    exclusions: Exclusions
    prior: int
    """Log-odds in millionths."""

    def log_odds(self, first_P: Indices, second_P: Indices) -> Indices:
        """Of P pairs by their resemblance, in millionths, the prior's included."""
        plain, whitened = (cosines(each, each, first_P, second_P) for each in self._vectors)
        return self.evidence.log_odds(plain, whitened, self._relation(first_P, second_P)) + self.prior

    def between(self, here_A: Indices, there_B: Indices) -> Indices:
        """Of each of A tracklets and each of B others: (A, B), as ``log_odds``, to the last digit."""
        step = max(1, MOST_AT_A_TIME // len(here_A))
        parts = [self._block(here_A, there_B[start : start + step]) for start in range(0, len(there_B), step)]
        return np.concatenate(parts, axis=1) + self.prior

    def clothes_log_odds(self, members_A: Indices) -> Indices:
        """That each two of A tracklets of one person show the same clothes: (A, A), in millionths."""
        plain, whitened = (each[members_A] @ each[members_A].T for each in self._vectors)
        return self.evidence.clothes_log_odds(plain, whitened, self._relation(members_A[:, None], members_A[None]))

    def motion(self, here_A: Indices, there_B: Indices) -> Indices:
        """What motion says of each of A tracklets and each of B others: (A, B), in millionths, mostly 0."""
        log_odds_AB = self.exclusions.sightings.motion(here_A[:, None], there_B[None])
        return np.rint(UNIT * log_odds_AB).astype(np.int64)

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


class Link(NamedTuple):
    """Of two groups, in millionths: the sums over all pairs of their tracklets of resemblance and of motion."""

    resemblance: int
    motion: int


class Doubt(NamedTuple):
    """Two groups: their log-odds in millionths, and the most similar two tracklets."""

    log_odds: int
    first: int
    second: int
    size: int
    """Tracklets of the smaller group."""
    joined: bool


@dataclass(frozen=True, slots=True)
class Grouping:
    """``group_N`` int64 is each tracklet's group, named by its first tracklet; ``doubts`` what was nearly otherwise.

    ``least_N`` float64 are the log-odds, in millionths, of the least probable join that brought a tracklet, as one of
    the smaller or of equal sides, to its group; infinity where there was none.
    """

    group_N: Indices
    least_N: Scores
    doubts: Sequence[Doubt]


def group(
    pairs: Pairs,
    candidates: tuple[Indices, Indices],
    *,
    together: Linked = (),
    apart: Linked = (),
    doubtful: float = DOUBTFUL,
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
        self._group_N = components(len(pairs.exclusions.sightings), together)
        self._least_N = np.full(len(self._group_N), np.inf)
        order = np.argsort(self._group_N, kind="stable")
        first_G, begin_G = np.unique(self._group_N[order], return_index=True)
        parts = np.split(order, begin_G[1:])
        self._members: dict[int, Indices] = dict(zip(first_G.tolist(), parts, strict=True))
        self._apart: dict[int, set[int]] = {}
        for one, other in apart:
            here, there = int(self._group_N[one]), int(self._group_N[other])
            self._apart.setdefault(here, set()).add(there)
            self._apart.setdefault(there, set()).add(here)
        self._links: dict[int, dict[int, Link]] = {first: {} for first in self._members}
        self._heap: list[tuple[float, int, int]] = []
        self._near: set[tuple[int, int]] = set()
        """Pairs of tracklets that a doubt may be about."""
        self._joins: list[Doubt] = []
        self._link(*candidates)

    def joined(self) -> Grouping:
        """Join until no two groups are to be."""
        while self._heap:
            negated, one, other = heapq.heappop(self._heap)
            link = self._links.get(one, {}).get(other)
            if link is not None and -self._log_odds(one, other, link) == negated:
                if self._may_join(one, other):
                    self._join(one, other, link)
                else:
                    self._forget(one, other)
        return Grouping(self._group_N, self._least_N, [*self._joins, *self._open_doubts()])

    def _link(self, first_P: Indices, second_P: Indices) -> None:
        """Begin with the groups that the candidates link."""
        low_P, high_P = np.minimum(first_P, second_P), np.maximum(first_P, second_P)
        low_P, high_P = np.unique(np.stack([low_P, high_P])[:, low_P < high_P], axis=1)
        apart_P = self._group_N[low_P] != self._group_N[high_P]
        low_P, high_P = low_P[apart_P], high_P[apart_P]
        log_odds_P = self._pairs.log_odds(low_P, high_P)
        near_P = np.abs(log_odds_P) <= 2 * self._doubtful
        self._near.update(zip(low_P[near_P].tolist(), high_P[near_P].tolist(), strict=True))
        motion_P = np.rint(UNIT * self._pairs.exclusions.sightings.motion(low_P, high_P)).astype(np.int64)
        groups_2P = np.sort(self._group_N[np.stack([low_P, high_P])], axis=0)
        pair_2L, link_P, count_L = np.unique(groups_2P, axis=1, return_inverse=True, return_counts=True)
        sums_L3 = np.zeros((len(count_L), 3), np.int64)
        likely_P = (log_odds_P + motion_P > 0) | (motion_P > 0)
        np.add.at(sums_L3, link_P.reshape(-1), np.stack([log_odds_P, motion_P, likely_P], axis=1))
        likely_L = sums_L3[:, 2] > 0
        for one, other, count, *link, _ in zip(
            *pair_2L[:, likely_L].tolist(), count_L[likely_L].tolist(), *sums_L3[likely_L].T.tolist(), strict=True
        ):
            is_whole = count == self._between(one, other)
            self._set(one, other, Link(*link) if is_whole else self._compare(self._members[one], [other])[0])

    def _between(self, one: int, other: int) -> int:
        return len(self._members[one]) * len(self._members[other])

    def _log_odds(self, one: int, other: int, link: Link) -> float:
        return link.resemblance / self._between(one, other) + link.motion

    def _compare(self, members: Indices, others: Sequence[int]) -> list[Link]:
        """These tracklets and each of other groups."""
        there = [self._members[other] for other in others]
        every, begins = np.concatenate(there), np.cumsum([0, *(len(part) for part in there[:-1])])
        sums = (
            np.add.reduceat(between(members, every).sum(axis=0), begins).tolist()
            for between in (self._pairs.between, self._pairs.motion)
        )
        return [Link(*both) for both in zip(*sums, strict=True)]

    def _set(self, one: int, other: int, link: Link) -> None:
        """Keep the link of two groups if they may still be joined."""
        log_odds = self._log_odds(one, other, link)
        if log_odds <= 0 and link.motion <= 0:
            self._forget(one, other)
            return
        self._links[one][other] = self._links[other][one] = link
        if log_odds > 0:
            heapq.heappush(self._heap, (-log_odds, min(one, other), max(one, other)))

    def _forget(self, one: int, other: int) -> None:
        self._links[one].pop(other, None)
        self._links[other].pop(one, None)

    def _may_join(self, one: int, other: int) -> bool:
        if other in self._apart.get(one, ()):
            return False
        return not self._pairs.excluded(self._members[one], self._members[other])

    def _join(self, kept: int, gone: int, link: Link) -> None:
        """The group of the later first tracklet becomes part of the other."""
        log_odds = self._log_odds(kept, gone, link)
        if log_odds <= self._doubtful:
            self._joins.append(self._doubt(kept, gone, log_odds, joined=True))
        for one, other in ((kept, gone), (gone, kept)):
            members = self._members[one]
            if len(members) <= len(self._members[other]):
                self._least_N[members] = np.minimum(self._least_N[members], log_odds)
        self._forget(kept, gone)
        linked = sorted({*self._links[kept], *self._links[gone]})
        links = dict.fromkeys(linked, Link(0, 0))
        for part in (kept, gone):
            unknown = [other for other in linked if other not in self._links[part]]
            found = self._compare(self._members[part], unknown) if unknown else []
            for other, more in [*zip(unknown, found, strict=True), *self._links[part].items()]:
                links[other] = Link(links[other].resemblance + more.resemblance, links[other].motion + more.motion)
        for other in self._links.pop(gone):
            self._links[other].pop(gone)
        members = np.concatenate((self._members[kept], self._members.pop(gone)))
        members.sort()
        self._members[kept] = members
        self._group_N[members] = kept
        for other in self._apart.pop(gone, set()):
            self._apart[other].discard(gone)
            self._apart[other].add(kept)
            self._apart.setdefault(kept, set()).add(other)
        for other in linked:
            self._set(kept, other, links[other])

    def _open_doubts(self) -> list[Doubt]:
        """On pairs of groups that stayed apart although nothing forbids that they are one."""
        asked = {
            (min(here, there), max(here, there))
            for one, other in self._near
            if (here := int(self._group_N[one])) != (there := int(self._group_N[other]))
        }
        found = []
        for one, other in sorted(asked):
            log_odds = self._log_odds(one, other, self._compare(self._members[one], [other])[0])
            if -self._doubtful <= log_odds and self._may_join(one, other):
                found.append(self._doubt(one, other, log_odds, joined=False))
        return found

    def _doubt(self, one: int, other: int, log_odds: float, *, joined: bool) -> Doubt:
        here, there = self._members[one], self._members[other]
        log_odds_AB = self._pairs.between(here, there)
        first, second = np.unravel_index(int(np.argmax(log_odds_AB)), log_odds_AB.shape)
        return Doubt(round(log_odds), int(here[first]), int(there[second]), min(len(here), len(there)), joined)


def components(tracklets: int, pairs: Linked) -> Indices:
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
