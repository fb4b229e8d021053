"""From a scored retrieval to a justified threshold: error rates with intervals, and probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ccvid.config import ThresholdOptions
from ccvid.retrieval.ranking.distances import Distances, Scores
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.protocols import Protocol
from ccvid.retrieval.thresholds.calibration import Calibration, Reliability, calibrate
from ccvid.retrieval.thresholds.open_set import OpenSet, open_set
from ccvid.retrieval.thresholds.recommended import RecommendedThreshold, recommend_threshold
from ccvid.retrieval.thresholds.separation import Separation
from ccvid.retrieval.thresholds.verification import SAMPLED_IMPOSTORS, Verification, VerificationPairs, verify
from data_tools.errors import InputError


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Error rates, threshold and probabilities of one protocol; what cannot be found is None, see ``left_out``."""

    verification: Verification
    recommended: RecommendedThreshold
    open_set: OpenSet | None
    calibration: Calibration | None
    reliability: Reliability | None
    separation: Separation | None
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """The content of thresholds.json; the calibration has its own file."""
        return {
            "verification": self.verification.to_json(),
            "recommended": self.recommended.to_json(),
            "open_set": None if self.open_set is None else self.open_set.to_json(),
            "reliability": None if self.reliability is None else self.reliability.to_json(),
            "separation": None if self.separation is None else self.separation.model_dump(),
            "left_out": dict(self.left_out),
        }


def find_thresholds(
    distances: Distances,
    query: RetrievalLabels,
    gallery: RetrievalLabels,
    protocol: Protocol,
    options: ThresholdOptions,
    *,
    model: str,
    first_score_Q: Scores | None = None,
) -> Thresholds:
    """All results of a protocol that need no ranking.

    Args:
        model: the fingerprint that a calibration is valid for.
        first_score_Q: the score of each query's first entry, for ``Thresholds.separation``.

    Takes two passes over the distances, and a few more for intervals and open-set rates.

    Raises:
        InputError: there is no genuine or no impostor pair.
    """
    pairs = VerificationPairs.of(distances, query, gallery, protocol)
    verification = verify(pairs)
    left_out: dict[str, str] = {}
    found_open_set: OpenSet | None = None
    calibration: Calibration | None = None
    reliability: Reliability | None = None
    try:
        found_open_set = open_set(distances, query, gallery, protocol)
    except InputError as error:
        left_out["open_set"] = str(error)
    try:
        calibration, reliability = calibrate(
            distances, query, gallery, protocol, method=options.calibration, model=model, prior=options.prior
        )
    except InputError as error:
        left_out["calibration"] = str(error)
    recommended = recommend_threshold(pairs, verification, options.far, draws=options.draws)
    separation = None
    if first_score_Q is not None:
        separation = Separation.of(pairs.impostor_sample(SAMPLED_IMPOSTORS), first_score_Q)
    return Thresholds(verification, recommended, found_open_set, calibration, reliability, separation, left_out)
