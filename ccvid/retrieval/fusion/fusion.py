"""The fused score of a pair: the sum of what each source says, as log-likelihood ratios.

    LLR = Σ_e w_e · [(1 − q_e) · low_e(s_e) + q_e · high_e(s_e)]      over the sources e that say something of the pair

    s_e             the source's score of the pair
    q_e             the quality of the score, from 0 (lowest seen) to 1 (highest)
    low_e, high_e   rising curves from score to log-likelihood ratio, log p(s | one person) − log p(s | two persons), at
                    the lowest and the highest quality; one curve for a source without qualities
    w_e             weights of at least 0, fitted together by logistic regression: sources that repeat one another share
                    their weight, and one that says nothing gets none

A source that says nothing of a pair adds nothing. This is logistic-regression fusion of calibrated scores (Brümmer et
al., IEEE TASLP 15, 2007; Morrison, Australian Journal of Forensic Sciences 45, 2013), with the calibration linear in
the quality (as in Ferrer et al., Odyssey 2008). Curves instead of lines are needed because clothes may change: a high
score of the clothes is strong evidence for one person, a low one hardly any for two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from ccvid.retrieval.fusion.evidence import Readings
from ccvid.retrieval.ranking.distances import Scores
from data_tools.options import Options

OWN = "own"
"""Name of the embedder's own evidence."""


class SourceFit(Options):
    """What is known of one source: its curve, linear between the given scores and constant outside, and its weight."""

    name: str
    model: str = ""
    """Fingerprint of the model behind it; empty if unknown."""
    scores: tuple[float, ...] = Field(min_length=1)
    log_odds: tuple[tuple[float, ...], ...] = Field(min_length=1, max_length=2)
    """Log-likelihood ratios at these scores: one curve, or those of the lowest and of the highest quality."""
    qualities: tuple[float, float, float] = (0, 0, 0)
    """Lowest, highest and mean quality of the fitted pairs; unknown qualities count as the mean."""
    weight: float = Field(ge=0, allow_inf_nan=False)
    """w of the formula."""
    genuine_pairs: int = Field(ge=1)
    """Pairs of one person in the fit of the curve."""
    impostor_pairs: int = Field(ge=1)
    """Pairs of two persons in the fit of the curve."""

    @model_validator(mode="after")
    def _check(self) -> SourceFit:
        numbers = [*self.scores, *self.qualities, *(value for curve in self.log_odds for value in curve)]
        if not np.isfinite(numbers).all():
            raise ValueError("scores, log_odds and qualities must be finite numbers")
        if not (np.diff(self.scores) > 0).all():
            raise ValueError("scores must be increasing")
        for curve in self.log_odds:
            if len(curve) != len(self.scores) or not (np.diff(curve) >= 0).all():
                raise ValueError("log_odds must be as many as scores, and must not decrease")
        return self

    def ratios(self, readings: Readings) -> Scores:
        """Log-likelihood ratios, 0 where there is no score."""
        low, *high = (np.interp(readings.score, self.scores, curve) for curve in self.log_odds)
        for better in high:
            share = shares(readings.quality, self.qualities)
            low = (1 - share) * low + share * better
        ratio: Scores = np.where(np.isnan(readings.score), 0.0, low)
        return ratio


def shares(quality: Scores, qualities: tuple[float, float, float]) -> Scores:
    """Qualities from 0 to 1, by their lowest, highest and mean."""
    low, high, mean = qualities
    share: Scores = (np.clip(np.where(np.isnan(quality), mean, quality), low, high) - low) / (high - low)
    return share


class Fusion(Options):
    """The content of ``fusion.json``: how scores of several sources become one log-likelihood ratio."""

    format_version: Literal[1] = 1
    protocol: str
    """The pairs of one person that it was fitted to are the matches of this protocol."""
    persons: int = Field(ge=2)
    """In the fit."""
    sources: tuple[SourceFit, ...] = Field(min_length=1)
    """The first is the embedder itself."""

    @property
    def model(self) -> str:
        """Fingerprint of the embedder."""
        return self.sources[0].model

    @property
    def names(self) -> tuple[str, ...]:
        """Of the others' sources."""
        return tuple(source.name for source in self.sources[1:])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the curves and weights; a calibration of fused scores is valid for it."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json")).encode()).hexdigest()

    def ratios(self, readings: Sequence[Readings]) -> Scores:
        """Fused log-likelihood ratios, from the readings of each source, in the order of ``sources``."""
        first, *others = (
            source.weight * source.ratios(some) for source, some in zip(self.sources, readings, strict=True)
        )
        return sum(others, start=first)

    def only(self, name: str) -> Fusion:
        """As if the other sources said nothing."""
        weights = (float(source.name == name) for source in self.sources)
        sources = (
            source.model_copy(update={"weight": weight}) for source, weight in zip(self.sources, weights, strict=True)
        )
        return self.model_copy(update={"sources": tuple(sources)})
