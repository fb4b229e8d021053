"""Verification: do two tracklets show the same person? Error rates over all pairs of a query and a gallery entry.

    genuine pair     same person, a match under the protocol     TAR: the share that is accepted
    impostor pair    two persons                                 FAR: the share that is accepted
    accepted         score ≥ threshold

Same-person pairs that are junk under the protocol are ignored. The score is 1 − distance in float64: for cosine
distances the cosine. Genuine scores are few and are kept; impostors are counted at thresholds, block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from math import ceil
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.ranking.distances import DistanceBlock, Distances, Floats, GalleryPart, Indices, Scores
from ccvid.retrieval.ranking.labels import RetrievalLabels, joint_codes
from ccvid.retrieval.ranking.protocols import PersonPairLabels, Protocol
from ccvid.retrieval.ranking.ranks import distances_of_pairs, same_person
from data_tools.errors import InputError

FARS = (1e-4, 1e-3, 1e-2, 1e-1)
SAMPLED_IMPOSTORS = 2**16
HIGHEST_IMPOSTORS = 2**17
HISTOGRAM_BINS = 100


@dataclass(frozen=True, slots=True)
class VerificationPairs:
    """The pairs that a protocol compares, among the Q queries and G gallery entries that take part in it.

    Persons are codes 0 … ``persons`` − 1, cameras 0 … ``cameras`` − 1, shared by both sides. The genuine pairs are P
    indices into each side; ``same_person`` counts them and the junk.
    """

    protocol: Protocol
    distances: Distances
    query_person_Q: Indices
    gallery_person_G: Indices
    persons: int
    query_camera_Q: Indices
    gallery_camera_G: Indices
    cameras: int
    genuine_query_P: Indices
    genuine_gallery_P: Indices
    same_person: int

    @classmethod
    def of(
        cls, distances: Distances, query: RetrievalLabels, gallery: RetrievalLabels, protocol: Protocol
    ) -> VerificationPairs:
        """Raises InputError if labels do not fit the distances, or the protocol leaves nothing to compare."""
        if distances.shape != (len(query), len(gallery)):
            expected = (len(query), len(gallery))
            raise InputError(f"distances have shape {distances.shape}, expected {expected} for these labels")
        if obstacle := protocol.obstacle(query, gallery):
            raise InputError(f"protocol {protocol.name}: {obstacle}")
        if protocol.within:
            rows = protocol.taking_part(query), protocol.taking_part(gallery)
            distances = distances.take(*rows)
            query, gallery = (side.take(part) for side, part in zip((query, gallery), rows, strict=True))
        query_person, gallery_person = joint_codes(query.person, gallery.person)
        query_S, gallery_S, _ = same_person(query_person, gallery_person)
        is_match = PersonPairLabels(query, gallery, query_S, gallery_S).matches(protocol)
        persons = query_person, gallery_person, 1 + int(max(query_person.max(), gallery_person.max()))
        query_camera, gallery_camera = joint_codes(query.camera, gallery.camera)
        cameras = query_camera, gallery_camera, 1 + int(max(query_camera.max(), gallery_camera.max()))
        kept = query_S[is_match], gallery_S[is_match]
        pairs = cls(protocol, distances, *persons, *cameras, *kept, len(query_S))
        if not len(kept[0]) or not pairs.impostors:
            raise InputError(
                f"protocol {protocol.name}: {len(kept[0])} genuine and {pairs.impostors} impostor pairs, "
                "expected at least one of each"
            )
        return pairs

    @property
    def impostors(self) -> int:
        return self.distances.shape[0] * self.distances.shape[1] - self.same_person

    def genuine_scores(self) -> Scores:
        """Scores of the genuine pairs (P,), in their order."""
        return _scores(distances_of_pairs(self.distances, self.genuine_query_P, self.genuine_gallery_P))

    def impostor_sample(self, most: int, seed: int = 0) -> Scores:
        """Scores of all impostor pairs or, if there are more pairs than ``most``, of a sample of about that size."""
        queries, entries = self.distances.shape
        if queries * entries <= most:
            pair_N = np.arange(queries * entries)
        else:
            pair_N = np.random.Generator(np.random.PCG64(seed)).integers(0, queries * entries, most)
        query_N, gallery_N = np.divmod(pair_N, entries)
        impostor_N = self.query_person_Q[query_N] != self.gallery_person_G[gallery_N]
        return _scores(distances_of_pairs(self.distances, query_N[impostor_N], gallery_N[impostor_N]))


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The lowest known threshold with at most ``asked_far``, and its rates; if there is none, ``reason`` says why."""

    asked_far: float
    threshold: float | None = None
    far: float | None = None
    tar: float | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, float | str | None]:
        figures = {"asked_far": self.asked_far, "threshold": self.threshold, "far": self.far, "tar": self.tar}
        return {**figures, "reason": self.reason}


@dataclass(frozen=True)
class Verification:
    """Exact counts of accepted pairs at T increasing thresholds, and the rates that follow from them.

    The thresholds include every genuine score, the highest impostor scores, one above all impostors, the scores of a
    sample of impostors, and ``edge_B``, the bin edges of a histogram. ``impostors_from_T`` and ``impostors_above_T``
    (T,) int64 count impostors with score ≥ and > the threshold. ``genuine_score_P`` is sorted.
    """

    protocol: Protocol
    genuine_score_P: Scores
    impostors: int
    threshold_T: Scores
    impostors_from_T: Indices
    impostors_above_T: Indices
    edge_B: Scores

    @cached_property
    def far(self) -> Scores:
        """False accept rate at each threshold (T,)."""
        return self.impostors_from_T / self.impostors

    @cached_property
    def tar(self) -> Scores:
        """True accept rate at each threshold (T,)."""
        return self._genuine_share(self.threshold_T, side="left")

    @property
    def auc(self) -> float:
        """Probability that a genuine pair scores higher than an impostor pair; an equal score counts half."""
        place_P = np.searchsorted(self.threshold_T, self.genuine_score_P)
        not_below = self.impostors_from_T[place_P] + self.impostors_above_T[place_P]
        pairs = len(self.genuine_score_P) * self.impostors
        return 1 - int(not_below.sum()) / (2 * pairs)

    @property
    def equal_error_rate(self) -> tuple[float, float]:
        """The rate at which the linearly interpolated ROC curve has FAR = 1 − TAR, and the nearest threshold."""
        above = self.impostors_above_T / self.impostors, self._genuine_share(self.threshold_T, side="right")
        # The curve's corners for decreasing thresholds: first what is above each one, then what reaches it.
        far_C, tar_C = (np.stack(pair, axis=1)[::-1].ravel() for pair in zip(above, (self.far, self.tar), strict=True))
        gap_C = far_C - (1 - tar_C)  # increases from −1; the lowest threshold accepts every genuine pair
        after = int(np.argmax(gap_C >= 0))
        before = after - 1
        share = -gap_C[before] / (gap_C[after] - gap_C[before])
        nearer = after if gap_C[after] <= -gap_C[before] else before
        rate = far_C[before] + share * (far_C[after] - far_C[before])
        return float(rate), float(self.threshold_T[::-1][nearer // 2])

    def operating_point(self, far: float) -> OperatingPoint:
        """The lowest of the thresholds with a FAR of at most ``far``; InputError if ``far`` is outside (0, 1)."""
        if not 0 < far < 1:
            raise InputError(f"false accept rate {far}, expected a number between 0 and 1")
        if far * self.impostors < 1:
            needed = ceil(1 / far)
            reason = f"{self.impostors:,} impostor pairs are too few for a rate of {far:g}; {needed:,} are needed"
            return OperatingPoint(far, reason=reason)
        place = int(np.argmax(self.far <= far))
        figures = (values[place].item() for values in (self.threshold_T, self.far, self.tar))
        return OperatingPoint(far, *figures)

    def operating_points(self) -> list[OperatingPoint]:
        """Operating points at the FARs in ``FARS``."""
        return [self.operating_point(far) for far in FARS]

    def roc(self, points: int = 200) -> list[tuple[float, float, float]]:
        """(FAR, TAR, threshold) at about ``points`` FARs, evenly spaced on a log scale, by decreasing threshold."""
        level_L = np.geomspace(1 / self.impostors, 1, points)
        place_L = np.searchsorted(-self.far, -level_L, side="left")
        kept = np.unique(np.append(place_L, len(self.far) - 1))[::-1]
        columns = (values[kept].tolist() for values in (self.far, self.tar, self.threshold_T))
        return list(zip(*columns, strict=True))

    def histogram(self) -> tuple[Scores, Scores]:
        """The shares of genuine and of impostor pairs in each bin [edge, next edge); the outer bins are open."""
        from_B = self.impostors_from_T[np.searchsorted(self.threshold_T, self.edge_B[1:-1])] / self.impostors
        genuine_B = self._genuine_share(self.edge_B[1:-1], side="left")
        genuine, impostor = (-np.diff(np.concatenate(([1.0], share_B, [0.0]))) for share_B in (genuine_B, from_B))
        return genuine, impostor

    def to_json(self) -> dict[str, object]:
        eer, threshold = self.equal_error_rate
        return {
            "protocol": self.protocol.name,
            "genuine_pairs": len(self.genuine_score_P),
            "impostor_pairs": self.impostors,
            "auc": self.auc,
            "eer": eer,
            "eer_threshold": threshold,
            "tar_at_far": [point.to_json() for point in self.operating_points()],
            "roc": [{"far": far, "tar": tar, "threshold": threshold} for far, tar, threshold in self.roc()],
        }

    def _genuine_share(self, threshold_T: Scores, *, side: Literal["left", "right"]) -> Scores:
        """The share of genuine scores ≥ (left) or > (right) each threshold."""
        below_T = np.searchsorted(self.genuine_score_P, threshold_T, side=side)
        return (len(self.genuine_score_P) - below_T) / len(self.genuine_score_P)


def verify(pairs: VerificationPairs, *, seed: int = 0) -> Verification:
    """Count accepted impostors at every threshold, in one pass over the distances.

    Every count is exact and does not depend on the blocks, nor on the parts of the gallery. Thresholds are about
    1 / 65,536 of the impostors apart (a sample, drawn with ``seed``); of the highest 131,072 impostor scores, every one
    is a threshold. Memory: one block of scores with a sorted copy, and a few numbers per genuine pair and threshold.
    """
    genuine_P = np.sort(pairs.genuine_scores())
    sampled_N = pairs.impostor_sample(SAMPLED_IMPOSTORS, seed)
    seen_N = np.concatenate((genuine_P, sampled_N))
    edge_B = np.linspace(seen_N.min(), max(seen_N.max(), seen_N.min() + 1e-3), HISTOGRAM_BINS + 1)
    threshold_T = np.unique(np.concatenate((seen_N, edge_B)))
    count = partial(
        _Impostors.of,
        query_person_Q=pairs.query_person_Q,
        gallery_person_G=pairs.gallery_person_G,
        threshold_T=threshold_T,
        most=HIGHEST_IMPOSTORS,
    )
    found = pairs.distances.fold(count, _Impostors.merged)
    # Some scores equal to the lowest one kept may have been dropped, so only those above it can be counted.
    highest_N = found.highest_N
    tail_T = np.unique(highest_N[highest_N > highest_N[0]])
    tail_T = np.append(tail_T, np.nextafter(highest_N[-1], np.inf))
    counted = (len(highest_N) - np.searchsorted(highest_N, tail_T, side=side) for side in ("left", "right"))
    every_T, place = np.unique(np.concatenate((threshold_T, tail_T)), return_index=True)
    from_T, above_T = (np.concatenate(both)[place] for both in zip((found.from_T, found.above_T), counted, strict=True))
    return Verification(pairs.protocol, genuine_P, pairs.impostors, every_T, from_T, above_T, edge_B)


@dataclass(frozen=True, slots=True)
class _Impostors:
    """Of a part of the gallery: how many score ≥ and > each threshold (T,), and the highest ``most`` scores, sorted."""

    from_T: Indices
    above_T: Indices
    highest_N: Scores
    most: int

    @classmethod
    def of(
        cls, part: GalleryPart, query_person_Q: Indices, gallery_person_G: Indices, threshold_T: Scores, most: int
    ) -> _Impostors:
        from_T, above_T = np.zeros((2, len(threshold_T)), np.int64)
        highest_N: Scores = np.empty(0)
        for block in impostor_blocks(part, query_person_Q, gallery_person_G):
            score_N = np.sort(block.values, axis=None).astype(np.float64, copy=False)
            from_T += len(score_N) - np.searchsorted(score_N, threshold_T, side="left")
            above_T += len(score_N) - np.searchsorted(score_N, threshold_T, side="right")
            floor = highest_N[0] if len(highest_N) == most else -np.inf
            higher_N = score_N[np.searchsorted(score_N, floor, side="right") :]
            highest_N = _highest(highest_N, higher_N, most)
        return cls(from_T, above_T, highest_N, most)

    def merged(self, other: _Impostors) -> _Impostors:
        """Of both parts."""
        highest_N = _highest(self.highest_N, other.highest_N, self.most)
        return _Impostors(self.from_T + other.from_T, self.above_T + other.above_T, highest_N, self.most)


def _highest(first_N: Scores, second_N: Scores, most: int) -> Scores:
    return np.sort(np.concatenate((first_N, second_N)))[-most:]


def impostor_blocks(part: GalleryPart, query_person_Q: Indices, gallery_person_G: Indices) -> Iterator[DistanceBlock]:
    """Blocks of scores in a part, −infinity for pairs of the same person; persons are those of the whole gallery."""
    person_N = gallery_person_G[part.entry_N]
    for query_start, gallery_start, values in part.distances.blocks():
        score_QN = _scores(values)
        block_person = person_N[gallery_start : gallery_start + values.shape[1]]
        score_QN[query_person_Q[query_start : query_start + len(values), None] == block_person] = -np.inf
        yield DistanceBlock(query_start, gallery_start, score_QN)


@dataclass(frozen=True, slots=True)
class ImpostorBlock:
    """Scores of some queries from ``query_start`` on and the entries (N,), −infinity for pairs of the same person."""

    query_start: int
    entry_N: Indices
    score_QN: Floats


Sums = npt.NDArray[Any]
BlockWork = Callable[[ImpostorBlock], Sums]


def sums_over_impostors(pairs: VerificationPairs, works: Sequence[BlockWork]) -> tuple[Sums, ...]:
    """The sum over all blocks of what each of some works makes of a block, in one pass over the distances."""
    sums = partial(_sums, works=works, query_person_Q=pairs.query_person_Q, gallery_person_G=pairs.gallery_person_G)
    return pairs.distances.fold(sums, _added)


def _sums(
    part: GalleryPart, works: Sequence[BlockWork], query_person_Q: Indices, gallery_person_G: Indices
) -> tuple[Sums, ...]:
    blocks = (
        ImpostorBlock(query, part.entry_N[entry : entry + score_QN.shape[1]], score_QN)
        for query, entry, score_QN in impostor_blocks(part, query_person_Q, gallery_person_G)
    )
    return reduce(_added, (tuple(work(block) for work in works) for block in blocks))


def _added(first: tuple[Sums, ...], second: tuple[Sums, ...]) -> tuple[Sums, ...]:
    return tuple(map(np.add, first, second))


def _scores(distance: Floats) -> Scores:
    return 1.0 - distance.astype(np.float64, copy=False)
