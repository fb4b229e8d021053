"""How often a threshold's rate on unseen cameras lies in its interval, and how good the probabilities are there.

    python ray_jobs/evaluate.py --checkpoint RUN --recipe synthetic --run.storage RUNS --run.name many \
        --data.shards SHARDS --data.synthetic.seed 77 --data.synthetic.cameras 16 --data.synthetic.test_people 64 \
        --data.synthetic.test_outfits 2 --data.synthetic.test_tracklets 16
    python -m tests.benchmarks.bench_transfer --embeddings RUNS/many/embeddings.parquet

RUN is a run of ``train.py`` without flags, whose walkers are others. Each draw takes some cameras and people for the
threshold, and as many others to try it on; in both, 30 % of the tracklets are queries.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccvid.retrieval.embedding.table import EmbeddingTable, read_embeddings
from ccvid.retrieval.ranking.distances import CosineDistances, Indices
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from ccvid.retrieval.thresholds.calibration import PairSample, calibrate, reliability
from ccvid.retrieval.thresholds.elsewhere import RatesByCamera
from ccvid.retrieval.thresholds.recommended import recommend_threshold
from ccvid.retrieval.thresholds.verification import VerificationPairs, verify

QUERIES = 0.3
GENERAL = PROTOCOLS["general"]


@dataclass(frozen=True)
class Trial:
    """Of one draw."""

    asked: float
    realised: float
    inside: bool
    inside_of_people: bool
    """Of the interval over persons only."""
    factor: float
    """Of the upper end of the interval to the rate here."""
    ece: float


Side = tuple[CosineDistances, RetrievalLabels, RetrievalLabels]


def sides(table: EmbeddingTable, rows: Indices, chance: np.random.Generator) -> Side:
    is_query = chance.random(len(rows)) < QUERIES
    query, gallery = (table.take(rows[chosen]) for chosen in (is_query, ~is_query))
    distances = CosineDistances(query.embedding_ND, gallery.embedding_ND)
    return distances, RetrievalLabels.from_rows(query.rows), RetrievalLabels.from_rows(gallery.rows)


def trial(table: EmbeddingTable, cameras: int, people: int, far: float, seed: int) -> Trial:
    chance = np.random.default_rng(seed)
    drawn = []
    for name, count in (("camera", cameras), ("person", people)):
        label = np.array(table.rows.values(name))
        names = chance.permutation(np.unique(label))
        drawn.append((np.isin(label, names[:count]), np.isin(label, names[count : 2 * count])))
    here, there = (sides(table, np.flatnonzero(camera & person), chance) for camera, person in zip(*drawn, strict=True))
    pairs, unseen = (VerificationPairs.of(*side, GENERAL) for side in (here, there))
    found = recommend_threshold(pairs, verify(pairs), far, draws=200, seed=seed)
    assert found.threshold is not None
    assert found.far is not None
    assert found.far_elsewhere is not None
    rates = RatesByCamera.of(unseen, found.threshold.value)
    rate = float(rates.accepted_CC.sum() / rates.impostors_CC.sum())
    calibration, _ = calibrate(*here, GENERAL, method="logistic", model="walkers", seed=seed)
    error = reliability(calibration, PairSample.of(unseen, seed)).expected_calibration_error
    return Trial(
        far,
        rate,
        found.far_elsewhere.low <= rate <= found.far_elsewhere.high,
        found.far.low <= rate <= found.far.high,
        found.far_elsewhere.high / found.far_elsewhere.value,
        error,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--cameras", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--people", type=int, default=30)
    parser.add_argument("--far", type=float, nargs="+", default=[0.1, 0.01])
    options = parser.parse_args()
    table = read_embeddings(options.embeddings)
    print(
        "| cameras | people | asked rate | realised / asked, 2.5 to 97.5 % | in the interval (aim 95 %) | in that over "
        "persons only | upper end | ECE, mean and worst (aim 5 %) |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for cameras in options.cameras:
        for far in options.far:
            trials = [trial(table, cameras, options.people, far, seed) for seed in range(options.draws)]
            low, high = np.quantile([found.realised / far for found in trials], (0.025, 0.975))
            inside, of_people = (
                100 * np.mean([getattr(found, name) for found in trials]) for name in ("inside", "inside_of_people")
            )
            errors = [found.ece for found in trials]
            print(
                f"| {cameras} | {options.people} | {100 * far:g} % | {low:.2f} to {high:.2f} | {inside:.1f} % | "
                f"{of_people:.1f} % | {np.median([found.factor for found in trials]):.1f} x | "
                f"{100 * np.mean(errors):.2f} %, {100 * max(errors):.2f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
