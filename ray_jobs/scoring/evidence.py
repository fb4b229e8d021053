"""Fusing others' evidence into a labelled retrieval, and what each source is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ccvid.config import ScoreOptions
from ccvid.retrieval.fusion.evidence_file import read_evidence
from ccvid.retrieval.fusion.fitting import FittedFusion, fit_fusion
from ccvid.retrieval.fusion.fusion import Fusion
from ccvid.retrieval.ranking.distances import CosineDistances, DistanceMatrix
from ccvid.retrieval.ranking.given import GivenRetrieval
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.scoring import ScoredRetrieval, score
from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.wording import shown
from ray_jobs.scoring.stored_retrieval import StoredRetrieval


def fuse_evidence(given: GivenRetrieval, paths: Sequence[Path], *, model: str) -> FittedFusion | None:
    """The given distances fused with the evidence in the files; None without files.

    Args:
        model: fingerprint of the embedder.

    Raises:
        InputError: a file is wrong or about other tracklets, or there are too few labelled pairs to fit a fusion.
    """
    if not paths:
        return None
    assert isinstance(given.distances, CosineDistances | DistanceMatrix), "fused scores need a gallery in memory"
    tables = read_evidence(paths)
    evidence = [table.between(given.query.ids, given.gallery.ids) for table in tables]
    for path, source in zip(paths, evidence, strict=True):
        if not source.coverage:
            raise InputError(
                f"{path}: says nothing of these tracklets, whose first query is {shown(given.query.ids[0])}"
            )
        message(f"{source.name}: {source.coverage}")
    models = [model, *(table.model for table in tables)]
    return fit_fusion(given.distances, evidence, given.query, given.gallery, models=models)


def fused_title(title: str, fusion: Fusion | None) -> str:
    """The title of fused results."""
    return title if fusion is None else f"{title}, fused with {', '.join(fusion.names)}"


def fuse_stored(
    retrieval: StoredRetrieval, paths: Sequence[Path], options: ScoreOptions
) -> tuple[ScoredRetrieval, FittedFusion | None]:
    """Scores of a store, fused with the evidence in the files; the gallery's embeddings are then read into memory.

    Raises:
        InputError: as ``fuse_evidence`` and ``StoredRetrieval.scored``.
    """
    if not paths:
        return retrieval.scored(options), None
    gallery_GD = np.concatenate([table.embedding_ND for table in retrieval.gallery_tables()])
    labels = RetrievalLabels.from_rows(retrieval.query.rows), RetrievalLabels.from_rows(retrieval.gallery)
    given = GivenRetrieval(CosineDistances(retrieval.query.embedding_ND, gallery_GD), *labels)
    fused = fuse_evidence(given, paths, model=retrieval.query.model)
    return score(given.distances if fused is None else fused.distances, *labels, options), fused


def facts_of(fused: FittedFusion | None, scores: ScoredRetrieval, options: ScoreOptions) -> Mapping[str, object]:
    """What each source weighs, and what it is worth alone, beside the fused scores; also printed. Empty without."""
    if fused is None:
        return {}
    evaluation, protocols = scores.evaluation, list(scores.evaluation.results)
    rows = []
    for source in fused.fusion.sources:
        alone = score(
            fused.distances.only(source.name), evaluation.query, evaluation.gallery, options
        ).evaluation.results
        rows.append(
            {
                "name": source.name,
                "weight": source.weight,
                "map": {name: alone[name].mean_average_precision for name in protocols},
            }
        )
        figures = ", ".join(f"{name} {100 * alone[name].mean_average_precision:.1f}" for name in protocols)
        message(f"{source.name} alone: mAP {figures} %; weight {source.weight:.2f}")
    return {"fused": rows}
