"""Where people stand when a track ends and another begins: the same person does not jump.

A tracklet that begins in the same video within ``MOST_SECONDS`` after another has ended is, if it shows the same person
who walked on, near by and about as tall. Lengths are in heights of the person, which need no camera's geometry.

    log-odds = log(walks on · how likely the step is of one person / of any other + gone meanwhile)

So what fits speaks for one person, and what does not speaks against one only as far as people come back elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccvid.retrieval.embedding.table import EmbeddingRows
from ccvid.retrieval.ranking.distances import Indices, Scores
from data_tools.datasets.footage import FIRST_BOX, LAST_BOX

MOST_SECONDS = 2.0
"""Later, nothing is known about where a person may be."""
STEP, SPEED = 0.15, 0.8
"""Standard deviation of a step in heights: of the boxes themselves, and for each second (a walk is 1.4 m/s)."""
GROWTH, GROWTH_SPEED = 0.1, 0.2
"""The same of the logarithm of the height."""
PICTURE_AREA, HEIGHT_RANGE = 10.0, 1.0
"""Over what another person's place (square heights) and log height are spread evenly."""
WALKS_ON = 0.9
"""How likely a person whose track ended goes on with another one, at once; half as likely after ``MOST_SECONDS``."""


@dataclass(frozen=True, slots=True)
class Ends:
    """First and last box of N tracklets: centre x, centre y and height in pixels, (N, 3) float64, NaN if unknown."""

    first_N3: Scores
    last_N3: Scores

    @classmethod
    def of(cls, rows: EmbeddingRows) -> Ends:
        """From the attributes that footage has."""
        return cls(*(_boxes(rows.attribute(name).to_pylist()) for name in (FIRST_BOX, LAST_BOX)))

    def log_odds(self, earlier_P: Indices, later_P: Indices, gap_P: Scores) -> Scores:
        """Of P pairs in nats, the second beginning ``gap_P`` seconds after the first; 0 where nothing is known."""
        from_P3, to_P3 = self.last_N3[earlier_P], self.first_N3[later_P]
        height_P = np.sqrt(from_P3[:, 2] * to_P3[:, 2])
        step_P = np.hypot(to_P3[:, 0] - from_P3[:, 0], to_P3[:, 1] - from_P3[:, 1]) / height_P
        growth_P = np.log(to_P3[:, 2] / from_P3[:, 2])
        deviation_P = STEP + SPEED * gap_P
        in_plane_P = np.exp(-0.5 * (step_P / deviation_P) ** 2) / (2 * np.pi * deviation_P**2)
        deviation_P = GROWTH + GROWTH_SPEED * gap_P
        in_height_P = np.exp(-0.5 * (growth_P / deviation_P) ** 2) / (np.sqrt(2 * np.pi) * deviation_P)
        walks_P = WALKS_ON * 0.5 ** (gap_P / MOST_SECONDS)
        found_P = np.log(walks_P * in_plane_P * PICTURE_AREA * in_height_P * HEIGHT_RANGE + 1 - walks_P)
        known_P = np.isfinite(found_P) & (gap_P > 0) & (gap_P <= MOST_SECONDS)
        return np.where(known_P, found_P, 0.0)


def _boxes(texts: list[str | None]) -> Scores:
    found = np.full((len(texts), 3), np.nan)
    for place, text in enumerate(texts):
        try:
            x, y, w, h = map(float, (text or "").split(","))
        except ValueError:
            continue
        if w > 0 and h > 0:
            found[place] = x + w / 2, y + h / 2, h
    return found
