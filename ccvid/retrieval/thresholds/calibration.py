"""From a score to the probability that two tracklets show the same person.

A curve of log-odds is fitted to pairs of identities that the model was not trained on, with equal total weight for
genuine and impostor pairs. The share of genuine pairs that a user will see, the prior, is separate: it adds its own
log-odds (Bayes' rule), so one curve serves any prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from ccvid.retrieval.ranking.distances import Distances, Scores
from ccvid.retrieval.ranking.labels import RetrievalLabels, joint_codes
from ccvid.retrieval.ranking.protocols import Protocol
from ccvid.retrieval.thresholds.verification import VerificationPairs
from data_tools.documents import parse_model
from data_tools.errors import InputError
from data_tools.files import atomic_file, read_document
from data_tools.options import Options

CalibrationMethod = Literal["isotonic", "logistic"]
MOST_IMPOSTORS = 2**18


@dataclass(frozen=True, slots=True)
class PairSample:
    """Scores of genuine (P,) and impostor pairs (N,) from ``VerificationPairs``, at least one of each."""

    genuine_P: Scores
    impostor_N: Scores

    @classmethod
    def of(cls, pairs: VerificationPairs, seed: int = 0) -> PairSample:
        """All genuine pairs and a sample of at most ``MOST_IMPOSTORS`` impostor pairs."""
        return cls(pairs.genuine_scores(), pairs.impostor_sample(MOST_IMPOSTORS, seed))

    def weighted(self, prior: float) -> tuple[Scores, Scores, Scores]:
        """For all pairs: score, 1 if genuine else 0, and weight.

        The weights sum to 1, those of genuine pairs to ``prior``.
        """
        counts = len(self.genuine_P), len(self.impostor_N)
        score_C = np.concatenate((self.genuine_P, self.impostor_N))
        weight_C = np.repeat((prior / counts[0], (1 - prior) / counts[1]), counts)
        return score_C, np.repeat((1.0, 0.0), counts), weight_C


class Calibration(Options):
    """A monotone curve from score to log-odds: linear between the given scores, constant outside."""

    format_version: Literal[1] = 1
    method: CalibrationMethod
    model: str
    """Fingerprint of the model that the scores must come from."""
    prior: float = Field(gt=0, lt=1, allow_inf_nan=False)
    """Default share of genuine pairs."""
    genuine_pairs: int = Field(ge=1)
    """Number of genuine pairs in the fit."""
    impostor_pairs: int = Field(ge=1)
    """Number of impostor pairs in the fit."""
    scores: tuple[float, ...] = Field(min_length=1)
    log_odds: tuple[float, ...]
    """At these scores, for equally many genuine and impostor pairs."""

    @model_validator(mode="after")
    def _check(self) -> Calibration:
        if len(self.scores) != len(self.log_odds):
            raise ValueError(f"{len(self.scores)} scores and {len(self.log_odds)} log_odds, expected equally many")
        if not np.isfinite((*self.scores, *self.log_odds)).all():
            raise ValueError("scores and log_odds must be finite numbers")
        if not (np.diff(self.scores) > 0).all() or not (np.diff(self.log_odds) >= 0).all():
            raise ValueError("scores must be increasing, and log_odds must not decrease")
        return self

    def probability(self, score: Scores, *, model: str, prior: float | None = None) -> Scores:
        """Probabilities in (0, 1) for float64 scores of any shape; −infinity (no entry) gives the lowest.

        Raises:
            InputError: the scores come from another model, or the prior is outside (0, 1).
        """
        if model != self.model:
            raise InputError(f"the calibration is for model {self.model}, the scores come from model {model}")
        chosen = self.prior if prior is None else prior
        if not 0 < chosen < 1:
            raise InputError(f"prior {chosen}, expected a share of genuine pairs between 0 and 1")
        log_odds = np.interp(score, self.scores, self.log_odds) + np.log(chosen / (1 - chosen))
        probability: Scores = 1 / (1 + np.exp(-log_odds))
        return probability


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predicted probabilities against observed frequencies: B bins of about equal weight, by increasing probability.

    ``said_B`` is the mean predicted probability in a bin, ``true_B`` the share of genuine pairs, ``weight_B`` the bin's
    share of all pairs, with pairs weighted so that the prior's share is genuine. ECE is the mean difference between
    said and true (Naeini et al., AAAI 2015), Brier the mean squared error of a pair's probability.
    """

    prior: float
    said_B: Scores
    true_B: Scores
    weight_B: Scores
    brier: float
    genuine_pairs: int
    impostor_pairs: int

    @property
    def expected_calibration_error(self) -> float:
        return float(self.weight_B @ np.abs(self.said_B - self.true_B))

    def to_json(self) -> dict[str, object]:
        rows = zip(self.said_B.tolist(), self.true_B.tolist(), self.weight_B.tolist(), strict=True)
        return {
            "prior": self.prior,
            "ece": self.expected_calibration_error,
            "brier": self.brier,
            "genuine_pairs": self.genuine_pairs,
            "impostor_pairs": self.impostor_pairs,
            "bins": [{"said": said, "true": true, "weight": weight} for said, true, weight in rows],
        }


def calibrate(
    distances: Distances,
    query: RetrievalLabels,
    gallery: RetrievalLabels,
    protocol: Protocol,
    *,
    method: CalibrationMethod,
    model: str,
    prior: float | None = None,
    seed: int = 0,
) -> tuple[Calibration, Reliability]:
    """Fit a curve to the pairs of one half of the persons, drawn by seed, and check it on those of the other half.

    None of the persons should be in the model's training set. Default prior: the share of genuine pairs among all pairs
    of a query and a gallery entry.

    Raises:
        InputError: a half has no genuine or no impostor pair; see ``VerificationPairs.of`` and ``fit_calibration``.
    """
    if prior is None:
        every = VerificationPairs.of(distances, query, gallery, protocol)
        prior = len(every.genuine_query_P) / (len(every.genuine_query_P) + every.impostors)
    person_Q, person_G = joint_codes(query.person, gallery.person)
    persons = 1 + int(max(person_Q.max(initial=-1), person_G.max(initial=-1)))
    is_fitted_P = np.zeros(persons, np.bool_)
    is_fitted_P[np.random.Generator(np.random.PCG64(seed)).permutation(persons)[: persons // 2]] = True
    samples = []
    for half_P, said in ((is_fitted_P, "fitted"), (~is_fitted_P, "held out")):
        query_rows, gallery_rows = np.flatnonzero(half_P[person_Q]), np.flatnonzero(half_P[person_G])
        part = query.take(query_rows), gallery.take(gallery_rows)
        try:
            pairs = VerificationPairs.of(distances.take(query_rows, gallery_rows), *part, protocol)
        except InputError as error:
            raise InputError(f"calibration on the {said} half of {persons} persons: {error}") from error
        samples.append(PairSample.of(pairs, seed))
    calibration = fit_calibration(samples[0], method, model=model, prior=prior)
    return calibration, reliability(calibration, samples[1])


def fit_calibration(sample: PairSample, method: CalibrationMethod, *, model: str, prior: float = 0.5) -> Calibration:
    """Fit a curve to pairs; raises InputError if a logistic curve would decrease, or for a prior outside (0, 1)."""
    if not 0 < prior < 1:
        raise InputError(f"prior {prior}, expected a share of genuine pairs between 0 and 1")
    score_K, log_odds_K = {"isotonic": _isotonic, "logistic": _logistic}[method](sample)
    return Calibration(
        method=method,
        model=model,
        prior=prior,
        genuine_pairs=len(sample.genuine_P),
        impostor_pairs=len(sample.impostor_N),
        scores=tuple(score_K.tolist()),
        log_odds=tuple(log_odds_K.tolist()),
    )


def reliability(
    calibration: Calibration, sample: PairSample, *, prior: float | None = None, bins: int = 10
) -> Reliability:
    """Check a curve on pairs of identities that it was not fitted to. Equal probabilities share a bin."""
    prior = calibration.prior if prior is None else prior
    score_C, genuine_C, weight_C = sample.weighted(prior)
    said_C = calibration.probability(score_C, model=calibration.model, prior=prior)
    said_S, place_C = np.unique(said_C, return_inverse=True)
    weight_S = np.bincount(place_C, weights=weight_C)
    bin_S = np.minimum((np.cumsum(weight_S) - weight_S / 2) * bins, bins - 1).astype(np.int64)
    weight_B: Scores = np.bincount(bin_S, weights=weight_S, minlength=bins).astype(np.float64)
    said_B = np.bincount(bin_S, weights=weight_S * said_S, minlength=bins)
    true_B = np.bincount(bin_S[place_C], weights=weight_C * genuine_C, minlength=bins)
    some = weight_B > 0
    return Reliability(
        prior,
        said_B[some] / weight_B[some],
        true_B[some] / weight_B[some],
        weight_B[some],
        brier=float(weight_C @ (said_C - genuine_C) ** 2),
        genuine_pairs=len(sample.genuine_P),
        impostor_pairs=len(sample.impostor_N),
    )


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write as JSON, atomically; InputError if that fails."""
    try:
        with atomic_file(path) as file:
            file.write((calibration.model_dump_json(indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error


def read_calibration(path: Path) -> Calibration:
    """Read what ``write_calibration`` wrote; InputError if the file cannot be read or is invalid."""
    try:
        return parse_model(Calibration, read_document(path), path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _isotonic(sample: PairSample) -> tuple[Scores, Scores]:
    """Steps of log-odds, limited to what the number of pairs supports: one more pair of the other kind at each end."""
    from sklearn.isotonic import IsotonicRegression  # takes seconds, which every process of a run would spend

    score_C, genuine_C, weight_C = sample.weighted(0.5)
    lowest, highest = 1 / (len(sample.genuine_P) + 2), 1 - 1 / (len(sample.impostor_N) + 2)
    curve = IsotonicRegression(y_min=lowest, y_max=highest).fit(score_C, genuine_C, sample_weight=weight_C)
    share_K = curve.y_thresholds_
    return curve.X_thresholds_.astype(np.float64), np.log(share_K / (1 - share_K))


def _logistic(sample: PairSample) -> tuple[Scores, Scores]:
    """A line of log-odds between the lowest and the highest score, with Platt's targets short of 0 and 1 (1999)."""
    from sklearn.linear_model import LogisticRegression  # takes seconds, as above

    score_C, genuine_C, weight_C = sample.weighted(0.5)
    middle, width = score_C.mean(), score_C.std() or 1.0
    counts = np.where(genuine_C > 0, len(sample.genuine_P), len(sample.impostor_N))
    doubt_C = 1 / (counts + 2)
    x_C1 = ((score_C - middle) / width)[:, None]
    line = LogisticRegression(C=1e6, max_iter=1000).fit(
        np.concatenate((x_C1, x_C1)),
        np.concatenate((genuine_C, 1 - genuine_C)),
        # Scaled to the number of pairs, which makes scikit-learn's penalty negligible.
        sample_weight=len(score_C) * np.concatenate((weight_C * (1 - doubt_C), weight_C * doubt_C)),
    )
    if line.coef_[0, 0] <= 0:
        raise InputError("genuine pairs score no higher than impostor pairs, so there is nothing to calibrate")
    ends: npt.NDArray[np.float64] = np.unique((score_C.min(), score_C.max()))
    return ends, line.decision_function(((ends - middle) / width)[:, None]).astype(np.float64)
