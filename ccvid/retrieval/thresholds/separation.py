"""How far a query's first match stands out of random pairs, which can be told without labels.

Where it differs much between the data that a threshold comes from and the data that it is used on, or where more random
pairs reach the threshold than false accepts were expected, the threshold's rates do not hold.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ccvid.retrieval.ranking.distances import Scores

NORMAL_QUARTILES = 1.349
"""The distance of a normal distribution's quartiles, in standard deviations."""


class Separation(BaseModel):
    """Scores of random pairs of tracklets, and of queries with their first match."""

    model_config = ConfigDict(frozen=True)

    random_median: float = Field(allow_inf_nan=False)
    random_spread: float = Field(gt=0, allow_inf_nan=False)
    """The distance of their quartiles, as a standard deviation."""
    first_median: float = Field(allow_inf_nan=False)

    @classmethod
    def of(cls, random_N: Scores, first_Q: Scores) -> Separation | None:
        """From the scores of some random pairs, nearly all of two persons, and of first matches.

        None if there are none of either, or the random ones hardly differ.
        """
        if not len(random_N) or not len(first_Q):
            return None
        low, median, high = np.quantile(random_N, (0.25, 0.5, 0.75)).tolist()
        if high - low <= np.finfo(np.float32).eps:
            return None
        spread = (high - low) / NORMAL_QUARTILES
        return cls(random_median=median, random_spread=spread, first_median=float(np.median(first_Q)))

    @property
    def stands_out(self) -> float:
        """How far the first match lies above random pairs, in their spreads."""
        return (self.first_median - self.random_median) / self.random_spread
