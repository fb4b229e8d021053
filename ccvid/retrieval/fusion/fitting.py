"""Fit a fusion to labelled pairs, and score each query by a fit that has never seen its person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ccvid.retrieval.fusion.curves import fit_curves, fit_logistic
from ccvid.retrieval.fusion.evidence import Evidence, Readings, TrackletEvidence
from ccvid.retrieval.fusion.fused import FusedDistances
from ccvid.retrieval.fusion.fusion import OWN, Fusion, SourceFit, shares
from ccvid.retrieval.ranking.distances import Indices, LocalDistances, Scores
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from ccvid.retrieval.thresholds.verification import VerificationPairs
from data_tools.errors import InputError

PROTOCOL = PROTOCOLS["general"]
"""Its matches are all pairs of one person: what clothes are worn is not known when the fusion is used."""
FOLDS = 5
SAMPLED_PAIRS = 2**15
"""For each source, pairs of which it says something, to find pairs of two persons among."""


@dataclass(frozen=True, slots=True)
class FitPairs:
    """C pairs as indices into both sides; ``genuine_C`` is 1 for those of one person, else 0."""

    query_C: Indices
    gallery_C: Indices
    genuine_C: Scores

    @classmethod
    def of(cls, evidence: Sequence[Evidence], pairs: VerificationPairs, seed: int) -> FitPairs:
        """All genuine pairs, and impostor pairs that are sampled for each source."""
        generator = np.random.Generator(np.random.PCG64(seed))
        drawn = [source.some_pairs(SAMPLED_PAIRS, generator) for source in evidence]
        key_N = np.unique(np.concatenate([query * pairs.distances.shape[1] + entry for query, entry in drawn]))
        query_N, gallery_N = np.divmod(key_N, pairs.distances.shape[1])
        of_two_N = pairs.query_person_Q[query_N] != pairs.gallery_person_G[gallery_N]
        query_C = np.concatenate((pairs.genuine_query_P, query_N[of_two_N]))
        gallery_C = np.concatenate((pairs.genuine_gallery_P, gallery_N[of_two_N]))
        genuine_C = np.zeros(len(query_C))
        genuine_C[: len(pairs.genuine_query_P)] = 1
        return cls(query_C, gallery_C, genuine_C)


@dataclass(frozen=True, slots=True)
class FittedFusion:
    """``fusion`` is fitted to all persons, for other data; ``distances`` score a query by a fit without its person."""

    fusion: Fusion
    distances: FusedDistances


def fit_fusion(
    own: LocalDistances,
    others: Sequence[Evidence],
    query: RetrievalLabels,
    gallery: RetrievalLabels,
    *,
    models: Sequence[str],
    seed: int = 0,
) -> FittedFusion:
    """Fit to labelled queries and gallery.

    Persons are divided into ``FOLDS`` parts, by seed. Queries of one part's persons are scored by a fit to pairs of the
    other parts' persons.

    Args:
        own: the embedder's distances.
        others: evidence of other sources.
        models: fingerprints of the embedder and of the models behind the others, empty where unknown.

    Raises:
        InputError: fewer than two persons, or a source has no pair of one person or none of two among those of a fit.
    """
    evidence: list[Evidence] = [TrackletEvidence.complete(OWN, own), *others]
    pairs = VerificationPairs.of(own, query, gallery, PROTOCOL)
    chosen = FitPairs.of(evidence, pairs, seed)
    readings = [source.pairs(chosen.query_C, chosen.gallery_C) for source in evidence]
    folds = min(FOLDS, pairs.persons)
    fold_P = np.random.Generator(np.random.PCG64(seed)).permutation(pairs.persons) % folds
    query_fold_C = fold_P[pairs.query_person_Q[chosen.query_C]]
    gallery_fold_C = fold_P[pairs.gallery_person_G[chosen.gallery_C]]

    def fit(held_out: int) -> Fusion:
        """Without the persons of a fold; −1 for none."""
        rows_C = np.flatnonzero((query_fold_C != held_out) & (gallery_fold_C != held_out))
        some = [Readings(*(values[rows_C] for values in source)) for source in readings]
        sources = fit_sources([source.name for source in evidence], models, some, chosen.genuine_C[rows_C])
        persons = int(np.count_nonzero(fold_P != held_out))
        return Fusion(protocol=PROTOCOL.name, persons=persons, sources=tuple(sources))

    every = FusedDistances.by_one(evidence, fit(-1))
    held_out = replace(every, fusions=[fit(fold) for fold in range(folds)], fusion_Q=fold_P[pairs.query_person_Q])
    return FittedFusion(every.fusions[0], held_out)


def fit_sources(
    names: Sequence[str], models: Sequence[str], readings: Sequence[Readings], genuine_C: Scores
) -> list[SourceFit]:
    """First the curves of each source, then the weights of all."""
    fits = [
        _fit_curves(name, model, source, genuine_C) for name, model, source in zip(names, models, readings, strict=True)
    ]
    ratio_CS = np.stack([fit.ratios(source) for fit, source in zip(fits, readings, strict=True)], axis=1)
    weight_S = fit_logistic(ratio_CS, genuine_C, np.zeros(len(fits))).tolist()
    return [fit.model_copy(update={"weight": weight}) for fit, weight in zip(fits, weight_S, strict=True)]


def _fit_curves(name: str, model: str, readings: Readings, genuine_C: Scores) -> SourceFit:
    known_C = ~np.isnan(readings.score)
    of_one, of_two = (int(np.count_nonzero(known_C & (genuine_C == kind))) for kind in (1, 0))
    if not of_one or not of_two:
        raise InputError(
            f"{name}: has scores for {of_one} pairs of one person and {of_two} pairs of two among those to fit it to, "
            "expected at least one of each"
        )
    quality_C = readings.quality[known_C]
    some_C = quality_C[~np.isnan(quality_C)]
    qualities = (float(some_C.min()), float(some_C.max()), float(some_C.mean())) if len(some_C) else (0.0, 0.0, 0.0)
    share_C = shares(quality_C, qualities) if qualities[1] > qualities[0] else None
    score_K, curves = fit_curves(readings.score[known_C], genuine_C[known_C], share_C)
    return SourceFit(
        name=name,
        model=model,
        scores=tuple(score_K.tolist()),
        log_odds=tuple(tuple(ratio_K.tolist()) for ratio_K in curves),
        qualities=qualities,
        weight=0.0,
        genuine_pairs=of_one,
        impostor_pairs=of_two,
    )
