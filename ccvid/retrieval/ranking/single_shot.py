"""Single-shot retrieval: galleries of one tracklet per person, drawn many times, and the spread of the metrics.

Draw n uses NumPy's PCG64 with seed n: each person of the gallery, in sorted order, gets one number u in [0, 1), and
tracklet number ⌊u · k⌋ of the person's k gallery tracklets, in gallery order, is drawn. So every machine draws the
same galleries from the same data.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.ranking.distances import Distances
from ccvid.retrieval.ranking.labels import RetrievalLabels, joint_codes
from ccvid.retrieval.ranking.metrics import CMC_RANKS, ProtocolResult, score_protocols
from ccvid.retrieval.ranking.protocols import Protocol


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation (n − 1) over the draws; ``sd`` is None for a single draw."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def to_json(self) -> dict[str, float | None]:
        return {"mean": self.mean, "sd": self.sd}


@dataclass(frozen=True, slots=True)
class SpreadResult:
    """One protocol's metrics over all draws, as fractions; ``cmc`` by rank."""

    mean_average_precision: Spread
    mean_inverse_negative_penalty: Spread
    cmc: Mapping[int, Spread]

    @classmethod
    def of(cls, figures: Sequence[tuple[float, ...]]) -> SpreadResult:
        """From each draw's ``_figures``."""
        precision, penalty, *cmc = (Spread.of(values) for values in zip(*figures, strict=True))
        return cls(precision, penalty, dict(zip(CMC_RANKS, cmc, strict=True)))

    def to_json(self) -> dict[str, object]:
        return {
            "map": self.mean_average_precision.to_json(),
            "minp": self.mean_inverse_negative_penalty.to_json(),
            "cmc": {str(rank): spread.to_json() for rank, spread in self.cmc.items()},
        }


@dataclass(frozen=True, slots=True)
class SingleShot:
    """Single-shot results by protocol, and why the other protocols were left out."""

    draws: int
    protocols: Mapping[str, SpreadResult]
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """The entry "single_shot" of metrics.json."""
        return {
            "draws": self.draws,
            "protocols": {name: result.to_json() for name, result in self.protocols.items()},
            "left_out": dict(self.left_out),
        }


def draw_gallery(gallery: RetrievalLabels, draw: int) -> npt.NDArray[np.int64]:
    """The gallery indices of draw number ``draw``, one per person, ascending."""
    _, person_G = joint_codes((), gallery.person)
    count_P = np.bincount(person_G)
    u_P = np.random.Generator(np.random.PCG64(draw)).random(len(count_P))
    first_P = np.cumsum(count_P) - count_P
    by_person = np.argsort(person_G, kind="stable")
    return np.sort(by_person[first_P + (u_P * count_P).astype(np.int64)])


def score_single_shot(
    distances: Distances,
    query: RetrievalLabels,
    gallery: RetrievalLabels,
    protocols: Sequence[Protocol],
    draws: int,
) -> SingleShot:
    """Score the queries against ``draws`` galleries, numbered from 0; a protocol must apply to each of them."""
    every_query = np.arange(len(query))
    found: dict[str, list[tuple[float, ...]]] = {protocol.name: [] for protocol in protocols}
    left_out: dict[str, str] = {}
    for draw in range(draws):
        rows = draw_gallery(gallery, draw)
        results, obstacles = score_protocols(distances.take(every_query, rows), query, gallery.take(rows), protocols)
        for name, result in results.items():
            found[name].append(_figures(result))
        for name, reason in obstacles.items():
            left_out.setdefault(name, f"draw {draw}: {reason}")
    spreads = {name: SpreadResult.of(figures) for name, figures in found.items() if name not in left_out}
    return SingleShot(draws, spreads, left_out)


def _figures(result: ProtocolResult) -> tuple[float, ...]:
    cmc = (result.cmc(rank) for rank in CMC_RANKS)
    return result.mean_average_precision, result.mean_inverse_negative_penalty, *cmc
