"""Scoring tracklets under every protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ccvid.config import ScoreOptions
from ccvid.retrieval.embedding.table import EmbeddingTable
from ccvid.retrieval.ranking.distances import CosineDistances, Distances
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import Evaluation, ProtocolResult, evaluate
from ccvid.retrieval.ranking.protocols import with_own
from ccvid.retrieval.ranking.single_shot import SingleShot, score_single_shot
from data_tools.shards import ShardFolder
from data_tools.tracklet import Split

PICTURED_PROTOCOLS = ("clothes_changing", "general")
"""Protocols whose rankings are drawn; the single score and the thresholds come from the first that applies."""
PICTURED_PLACES = 20
DEFAULT_OPTIONS = ScoreOptions()


def labelled_rows(store: ShardFolder, split: Split) -> list[int]:
    """The rows of a split whose person is known: only these can be scored."""
    found: list[int] = np.flatnonzero(store.rows.is_in("split", [split]) & store.rows.is_known("person")).tolist()
    return found


@dataclass(frozen=True, slots=True)
class ScoredRetrieval:
    """Scores of the whole gallery under every protocol and, on request, of single-shot galleries."""

    distances: Distances
    evaluation: Evaluation
    single_shot: SingleShot | None = None

    def to_json(self) -> dict[str, object]:
        """The content of metrics.json."""
        single_shot = {} if self.single_shot is None else {"single_shot": self.single_shot.to_json()}
        return {**self.evaluation.to_json(), **single_shot}


def score(
    distances: Distances,
    query: RetrievalLabels,
    gallery: RetrievalLabels,
    options: ScoreOptions,
) -> ScoredRetrieval:
    """Score under the standard protocols and the recipe's own; raises InputError like ``with_own`` and ``evaluate``."""
    asked = with_own(options.protocols)
    evaluation = evaluate(distances, query, gallery, protocols=asked, top_k=PICTURED_PLACES)
    if not options.single_shot_draws:
        return ScoredRetrieval(distances, evaluation)
    protocols = [result.protocol for result in evaluation.results.values()]
    return ScoredRetrieval(
        distances, evaluation, score_single_shot(distances, query, gallery, protocols, options.single_shot_draws)
    )


def score_embeddings(
    query: EmbeddingTable, gallery: EmbeddingTable, options: ScoreOptions = DEFAULT_OPTIONS
) -> ScoredRetrieval:
    """Score the embeddings of labelled tracklets by cosine distance, on a GPU if any."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    distances = CosineDistances(query.embedding_ND, gallery.embedding_ND, device=device)
    query_labels, gallery_labels = (RetrievalLabels.from_rows(table.rows) for table in (query, gallery))
    return score(distances, query_labels, gallery_labels, options)


def single_score(evaluation: Evaluation) -> float:
    """Clothes-changing mAP, or general if nobody changes clothes."""
    return leading_result(evaluation).mean_average_precision


def leading_result(evaluation: Evaluation) -> ProtocolResult:
    """The result for the single score and the thresholds: the first of ``PICTURED_PROTOCOLS``, else of all."""
    named = (evaluation.results[name] for name in PICTURED_PROTOCOLS if name in evaluation.results)
    return next(named, next(iter(evaluation.results.values())))
