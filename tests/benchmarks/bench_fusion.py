"""Fused evidence against the best single kind, on the synthetic walkers, with each kind degraded in turn.

    python -m tests.benchmarks.bench_fusion [--run ~/ccvid/runs/synthetic] [--shards ~/ccvid/data/synthetic] [--seeds 5]

`ray_jobs/train.py` without arguments makes both folders. Kinds of evidence:

    own      the run's embeddings                                                          real
    colours  colour histograms of the same frames, which know the outfit                   real
    face     16 numbers that a person has for life, with noise that falls with the quality; made from the labels
             null for 40 % of the tracklets
    gait     scores of 80 % of the pairs, 1 apart for one person and for two, with noise    made from the labels

Conditions: nothing degraded; each kind noisy (noise as long as its embedding, or as its scores are apart); each kind
useless (nothing but noise). Fused scores are held out: a query is scored by a fit without its person. Two common ways
stand beside: the sum of z-scores, and that sum weighed by quality; a missing score is 0. For each: the difference of
mAP to the best single kind of that condition and seed, and in how many seeds it is worse, or better, by more than the
noise (95 % bootstrap over persons).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccvid.config import ScoreOptions
from ccvid.retrieval.embedding.table import read_embeddings
from ccvid.retrieval.fusion.evidence import Evidence, PairEvidence, TrackletEvidence
from ccvid.retrieval.fusion.fitting import fit_fusion
from ccvid.retrieval.fusion.fusion import OWN
from ccvid.retrieval.ranking.bootstrap import PairedDifference, paired_difference
from ccvid.retrieval.ranking.distances import CosineDistances, DistanceMatrix, Distances, Floats, Scores
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.scoring import score
from ccvid.run_files import EMBEDDINGS_FILE
from data_tools.colour_outfits import colour_histograms
from data_tools.cpus import processor
from data_tools.shards import ShardFolder

KINDS = (OWN, "colours", "face", "gait")
DEGRADED = {"noisy": 1.0, "useless": 1e6}
"""Length of the noise that is added, in lengths of an embedding, or in distances of the two kinds of pairs."""
PROTOCOLS = ("general", "clothes_changing", "same_clothes")
Condition = tuple[str, str] | None
"""A kind and how it is degraded."""


@dataclass(frozen=True, slots=True)
class Walkers:
    """The test tracklets, with what is known of each."""

    query: RetrievalLabels
    gallery: RetrievalLabels
    own: tuple[Floats, Floats]
    """Embeddings of both sides."""
    colours: tuple[Floats, Floats]

    @classmethod
    def read(cls, run: Path, shards: Path) -> Walkers:
        table, store = read_embeddings(run / EMBEDDINGS_FILE), ShardFolder(shards)
        row_of = {name: row for row, name in enumerate(store.rows.values("id"))}
        parts = [table.part(split) for split in ("query", "gallery")]
        query, gallery = (RetrievalLabels.from_rows(part.rows) for part in parts)
        colours = [colour_histograms(store, [row_of[name] for name in part.rows.values("id")]) for part in parts]
        return cls(query, gallery, (parts[0].embedding_ND, parts[1].embedding_ND), (colours[0], colours[1]))

    def evidence(self, seed: int, condition: Condition) -> dict[str, Evidence]:
        """Every kind; the noise of a seed is the same in every condition."""
        random = np.random.default_rng(seed)
        noise = dict.fromkeys(KINDS, 0.0) | ({} if condition is None else {condition[0]: DEGRADED[condition[1]]})

        def noisy(vectors: tuple[Floats, Floats], much: float) -> CosineDistances:
            return CosineDistances(*(_with_noise(side, much, random) for side in vectors), origin="walkers")

        complete = {
            name: TrackletEvidence.complete(name, noisy(vectors, noise[name]))
            for name, vectors in ((OWN, self.own), ("colours", self.colours))
        }
        return {**complete, "face": self._faces(noise["face"], random), "gait": self._gait(noise["gait"], random)}

    def _faces(self, much: float, random: np.random.Generator) -> TrackletEvidence:
        person_of = {name: random.normal(size=16) for name in sorted({*self.query.person, *self.gallery.person})}
        sides, places, qualities = [], [], []
        for labels in (self.query, self.gallery):
            face_ND = np.stack([person_of[name] for name in labels.person])
            quality_N, hidden_N = random.uniform(size=len(labels)), random.uniform(size=len(labels)) < 0.4
            face_ND += (0.5 + 2.5 * (1 - quality_N))[:, None] * random.normal(size=face_ND.shape)
            sides.append(_with_noise(face_ND, much, random)[~hidden_N])
            places.append(np.where(hidden_N, -1, np.cumsum(~hidden_N) - 1))
            qualities.append(quality_N)
        return TrackletEvidence("face", CosineDistances(*sides, origin="face"), *places, *qualities)

    def _gait(self, much: float, random: np.random.Generator) -> PairEvidence:
        same_QG = np.equal.outer(np.array(self.query.person), np.array(self.gallery.person))
        score_QG = same_QG + 0.6 * random.normal(size=same_QG.shape) + much * random.normal(size=same_QG.shape)
        key_S = np.flatnonzero(random.uniform(size=same_QG.size) < 0.8)
        return PairEvidence("gait", same_QG.shape, key_S, score_QG.ravel()[key_S], np.full(len(key_S), np.nan))


def _with_noise(vectors: Floats, much: float, random: np.random.Generator) -> Floats:
    """Unit vectors with noise of the length ``much``."""
    unit_ND = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    noise_ND = random.normal(size=vectors.shape)
    noisy_ND: Floats = unit_ND + much * noise_ND / np.linalg.norm(noise_ND, axis=1, keepdims=True)
    return noisy_ND


def z_scores(evidence: Mapping[str, Evidence], *, by_quality: bool) -> DistanceMatrix:
    """The sum of scores of mean 0 and deviation 1; a missing one is 0."""
    total: Scores | float = 0.0
    for source in evidence.values():
        rows, columns = map(np.arange, source.shape)
        found, quality = source.tile(rows, columns)
        z = np.nan_to_num((found - np.nanmean(found)) / np.nanstd(found))
        total = total + (z * np.nan_to_num(quality, nan=1.0) if by_quality else z)
    return DistanceMatrix(-np.asarray(total))


def precisions(distances: Distances, walkers: Walkers) -> dict[str, Scores]:
    """Average precision of each query with a match, by protocol."""
    results = score(distances, walkers.query, walkers.gallery, ScoreOptions()).evaluation.results
    return {name: results[name].average_precision_Q.astype(np.float64) for name in PROTOCOLS}


def compare(walkers: Walkers, seed: int, condition: Condition) -> dict[str, dict[str, PairedDifference]]:
    """By way and protocol, the difference to the best single kind."""
    evidence = walkers.evidence(seed, condition)
    own = evidence[OWN]
    assert isinstance(own, TrackletEvidence)
    others = [source for name, source in evidence.items() if name != OWN]
    fitted = fit_fusion(own.distances, others, walkers.query, walkers.gallery, models=[""] * len(KINDS))
    singles = {
        name: precisions(source.distances, walkers)  # without the ties that the ends of a curve make
        if isinstance(source, TrackletEvidence) and name != "face"
        else precisions(fitted.distances.only(name), walkers)
        for name, source in evidence.items()
    }
    ways: dict[str, Distances] = {
        "fused": fitted.distances,
        "sum of z-scores": z_scores(evidence, by_quality=False),
        "weighed by quality": z_scores(evidence, by_quality=True),
    }
    found: dict[str, dict[str, PairedDifference]] = {}
    for way, distances in ways.items():
        mine = precisions(distances, walkers)
        found[way] = {name: _difference(singles, mine, name, walkers) for name in PROTOCOLS}
    return found


def _difference(
    singles: Mapping[str, dict[str, Scores]], mine: dict[str, Scores], name: str, walkers: Walkers
) -> PairedDifference:
    best = max((single[name] for single in singles.values()), key=np.nanmean)
    known = ~np.isnan(best)
    person = np.array(walkers.query.person)[known]
    return paired_difference(best[known], mine[name][known], person.tolist())


def cell(found: list[PairedDifference]) -> str:
    """Means over seeds in per cent, and in how many the difference is beyond the noise."""
    best, change = (
        100 * np.mean(values) for values in zip(*((f.first, f.difference.value) for f in found), strict=True)
    )
    worse, better = sum(f.difference.high < 0 for f in found), sum(f.difference.low > 0 for f in found)
    return f"{best:.1f} {change:+.1f} (worse {worse}, better {better})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("~/ccvid/runs/synthetic").expanduser())
    parser.add_argument("--shards", type=Path, default=Path("~/ccvid/data/synthetic").expanduser())
    parser.add_argument("--seeds", type=int, default=5, help="of the made evidence and of the noise")
    options = parser.parse_args()
    walkers = Walkers.read(options.run, options.shards)
    conditions: list[Condition] = [None, *((kind, how) for kind in KINDS for how in DEGRADED)]
    print(f"{processor()}; {len(walkers.query)} queries, {len(walkers.gallery)} entries, {options.seeds} seeds\n")
    print("mAP of the best single kind, and the difference to it (%)\n")
    for condition in conditions:
        found = [compare(walkers, seed, condition) for seed in range(options.seeds)]
        for way in found[0]:
            cells = [cell([one[way][name] for one in found]) for name in PROTOCOLS]
            named = "nothing" if condition is None else " ".join(condition)
            print(f"| {named} | {way} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
