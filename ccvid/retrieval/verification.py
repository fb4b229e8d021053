"""Verification: do two tracklets show the same person? Figures over all pairs of a query and a gallery entry.

    genuine pair     same person, a match under the protocol     TAR: the share that is accepted
    impostor pair    two persons                                 FAR: the share that is accepted
    accepted         score ≥ threshold

Same-person pairs that are junk under the protocol count nowhere. The score is 1 − distance in float64: for cosine
distances the cosine. Genuine scores are few and are kept; impostors are counted at thresholds, block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.distances import DistanceBlock, Distances, Indices
from ccvid.retrieval.labels import RetrievalLabels, joint_codes
from ccvid.retrieval.protocols import Protocol
from data_tools.errors import InputError

Scores = npt.NDArray[np.float64]

FARS = (1e-4, 1e-3, 1e-2, 1e-1)
SAMPLED_IMPOSTORS = 2**16
HIGHEST_IMPOSTORS = 2**17
HISTOGRAM_BINS = 100


@dataclass(frozen=True, slots=True)
class VerificationPairs:
    """The pairs that a protocol compares, among the Q queries and G gallery entries that take part in it.

    Persons are codes 0 … ``persons`` − 1 that agree across both sides. The genuine pairs are P indices into either
    side; ``same_person`` counts them and the junk.
    """

    protocol: Protocol
    distances: Distances
    query_person_Q: Indices
    gallery_person_G: Indices
    persons: int
    genuine_query_P: Indices
    genuine_gallery_P: Indices
    same_person: int

    @classmethod
    def of(
        cls, distances: Distances, query: RetrievalLabels, gallery: RetrievalLabels, protocol: Protocol
    ) -> VerificationPairs:
        """Raises InputError: labels that do not fit the distances, or a protocol that leaves nothing to compare."""
        if distances.shape != (len(query), len(gallery)):
            raise InputError(f"distances are {distances.shape}, labels ask for {(len(query), len(gallery))}")
        if obstacle := protocol.obstacle(query, gallery):
            raise InputError(f"protocol {protocol.name}: {obstacle}")
        if protocol.within:
            rows = protocol.taking_part(query), protocol.taking_part(gallery)
            distances, query, gallery = distances.take(*rows), query.take(rows[0]), gallery.take(rows[1])  # type: ignore[arg-type]
        query_person, gallery_person = joint_codes(query.person, gallery.person)
        query_S, gallery_S = _same_person(query_person, gallery_person)
        is_match = match_relation(protocol, query, gallery, query_S, gallery_S)
        persons = 1 + int(max(query_person.max(), gallery_person.max()))
        kept = query_S[is_match], gallery_S[is_match]
        return cls(protocol, distances, query_person, gallery_person, persons, *kept, len(query_S))

    @property
    def impostors(self) -> int:
        return self.distances.shape[0] * self.distances.shape[1] - self.same_person

    def genuine_scores(self) -> Scores:
        """(P,), in the order of the pairs."""
        return _scores(self.distances.pairs(self.genuine_query_P, self.genuine_gallery_P))

    def impostor_sample(self, most: int, seed: int = 0) -> Scores:
        """Scores of all impostor pairs, or, where there are more pairs than ``most``, of about that many drawn ones."""
        queries, entries = self.distances.shape
        if queries * entries <= most:
            pair_N = np.arange(queries * entries)
        else:
            pair_N = np.random.Generator(np.random.PCG64(seed)).integers(0, queries * entries, most)
        query_N, gallery_N = np.divmod(pair_N, entries)
        impostor_N = self.query_person_Q[query_N] != self.gallery_person_G[gallery_N]
        return _scores(self.distances.pairs(query_N[impostor_N], gallery_N[impostor_N]))

    def impostor_blocks(self) -> Iterator[DistanceBlock]:
        """Blocks of scores, −infinity at the pairs of one person."""
        for query_start, gallery_start, values in self.distances.blocks():
            score_QG = _scores(values)
            query_person = self.query_person_Q[query_start : query_start + len(values)]
            gallery_person = self.gallery_person_G[gallery_start : gallery_start + values.shape[1]]
            score_QG[query_person[:, None] == gallery_person] = -np.inf
            yield DistanceBlock(query_start, gallery_start, score_QG)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What the lowest threshold known to keep the FAR asked for does; without one, ``reason`` says why."""

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
    """Exact counts of accepted pairs at T thresholds, rising, and what follows from them.

    Among the thresholds are every genuine score, the highest impostor scores, one above all impostors, scores of a
    sample of impostors, and ``edge_B``, bin edges for a histogram. (T,) int64: impostors with score ≥ and > the
    threshold. ``genuine_score_P`` rises.
    """

    protocol: Protocol
    genuine_score_P: Scores
    impostors: int
    threshold_T: Scores
    impostors_from_T: Indices
    impostors_above_T: Indices
    edge_B: Scores

    @cached_property
    def far_T(self) -> Scores:
        return self.impostors_from_T / self.impostors

    @cached_property
    def tar_T(self) -> Scores:
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
        """Where the ROC curve, its points joined by straight lines, has FAR = 1 − TAR; and the nearest threshold."""
        far, tar = self._curve()
        gap = far - (1 - tar)  # rises along the curve, from −1 to 1
        after = int(np.argmax(gap >= 0))
        before = after - 1
        share = -gap[before] / (gap[after] - gap[before])
        nearer = after if gap[after] <= -gap[before] else before
        threshold_C = np.concatenate(([np.inf], np.repeat(self.threshold_T[::-1], 2), [-np.inf]))
        return float(far[before] + share * (far[after] - far[before])), float(threshold_C[nearer])

    def operating_point(self, far: float) -> OperatingPoint:
        """The lowest of the thresholds with a FAR of at most ``far``; raises InputError outside (0, 1)."""
        if not 0 < far < 1:
            raise InputError(f"false accept rate {far}, expected a number between 0 and 1")
        if far * self.impostors < 1:
            reason = (
                f"{self.impostors} impostor pairs cannot show a rate of {far:g}: at least {np.ceil(1 / far):.0f} needed"
            )
            return OperatingPoint(far, reason=reason)
        place = int(np.argmax(self.far_T <= far))
        figures = (values[place].item() for values in (self.threshold_T, self.far_T, self.tar_T))
        return OperatingPoint(far, *figures)

    def roc(self, points: int = 200) -> list[tuple[float, float, float]]:
        """(FAR, TAR, threshold) at about so many FARs, spread evenly on a log scale; the threshold falls."""
        level_L = np.geomspace(1 / self.impostors, 1, points)
        place_L = np.searchsorted(-self.far_T, -level_L, side="left")
        kept = np.unique(np.append(place_L, len(self.far_T) - 1))[::-1]
        columns = (values[kept].tolist() for values in (self.far_T, self.tar_T, self.threshold_T))
        return list(zip(*columns, strict=True))

    def histogram(self) -> tuple[Scores, Scores]:
        """The share of genuine and of impostor pairs in each bin [edge, next edge); the outer bins are open."""
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
            "tar_at_far": [self.operating_point(far).to_json() for far in FARS],
            "roc": [{"far": far, "tar": tar, "threshold": threshold} for far, tar, threshold in self.roc()],
        }

    def _curve(self) -> tuple[Scores, Scores]:
        """The corners (FAR, TAR) of the ROC curve from (0, 0) to (1, 1): above and from each threshold, falling."""
        above = self.impostors_above_T / self.impostors, self._genuine_share(self.threshold_T, side="right")
        corners = (np.stack(both, axis=1)[::-1].ravel() for both in zip(above, (self.far_T, self.tar_T), strict=True))
        far, tar = (np.concatenate(([0.0], corner, [1.0])) for corner in corners)
        return far, tar

    def _genuine_share(self, threshold_T: Scores, *, side: Literal[left, right]) -> Scores:
        """The share of genuine scores ≥ (left) or > (right) each threshold."""
        below_T = np.searchsorted(self.genuine_score_P, threshold_T, side=side)
        return 1 - below_T / len(self.genuine_score_P)
