"""Scoring stored tracklets under every protocol, and the files that tell of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ccvid.config import ScoreOptions
from ccvid.retrieval.distances import CosineDistances, Distances
from ccvid.retrieval.embeddings import EmbeddingRow, EmbeddingTable, write_embeddings
from ccvid.retrieval.labels import RetrievalLabels
from ccvid.retrieval.metrics import Evaluation, evaluate
from ccvid.retrieval.protocols import with_own
from ccvid.retrieval.ranked_picture import Picture, Thumbnails, draw_rankings, save_figure
from ccvid.retrieval.single_shot import SingleShot, score_single_shot
from ccvid.retrieval.tables import metrics_table, write_query_table
from data_tools.files import atomic_file
from data_tools.shards import ShardFolder
from data_tools.stored_frames import decode_clip_
from data_tools.tracklet import Split

SCORED_PROTOCOLS = ("clothes_changing", "general")
"""What a single score is taken from: the first that applies."""
PICTURED_PLACES = 20
USUAL = ScoreOptions()
THUMBNAIL_SIZE = (256, 128)


def labelled_rows(store: ShardFolder, split: Split) -> list[int]:
    """The rows of a split whose person is known: only they can be scored."""
    return [number for number, row in enumerate(store.rows) if row.split == split and row.person is not None]


@dataclass(frozen=True, slots=True)
class Scores:
    """All that was scored: the whole gallery under every protocol and, where asked for, single-shot galleries."""

    evaluation: Evaluation
    single_shot: SingleShot | None = None

    def to_json(self) -> dict[str, object]:
        """What metrics.json holds."""
        single_shot = {} if self.single_shot is None else {"single_shot": self.single_shot.to_json()}
        return {**self.evaluation.to_json(), **single_shot}


def score(distances: Distances, query: RetrievalLabels, gallery: RetrievalLabels, options: ScoreOptions) -> Scores:
    """Score under the usual protocols and the recipe's own; raises InputError as ``with_own`` and ``evaluate`` do."""
    evaluation = evaluate(distances, query, gallery, protocols=with_own(options.protocols), top_k=PICTURED_PLACES)
    if not options.single_shot_draws:
        return Scores(evaluation)
    protocols = [result.protocol for result in evaluation.results.values()]
    return Scores(evaluation, score_single_shot(distances, query, gallery, protocols, options.single_shot_draws))


def score_embeddings(
    store: ShardFolder,
    embedding_RD: Tensor,
    query_rows: Sequence[int],
    gallery_rows: Sequence[int],
    options: ScoreOptions = USUAL,
) -> Scores:
    """Score embeddings of stored rows, (queries + gallery, D) in that order, by cosine distance."""
    query, gallery = (RetrievalLabels.from_rows(store.rows[row] for row in rows) for rows in (query_rows, gallery_rows))
    embedding = embedding_RD.numpy()
    distances = CosineDistances(embedding[: len(query_rows)], embedding[len(query_rows) :])
    return score(distances, query, gallery, options)


def single_score(evaluation: Evaluation) -> float:
    """Clothes-changing mAP, or general where nobody changes clothes."""
    for name in SCORED_PROTOCOLS:
        if name in evaluation.results:
            return evaluation.results[name].mean_average_precision
    return next(iter(evaluation.results.values())).mean_average_precision


def write_scores(
    folder: Path,
    store: ShardFolder,
    scores: Scores,
    rows: Sequence[int],
    embedding_RD: Tensor,
    clip_count_R: Tensor,
    *,
    model: str,
    title: str,
    facts: Mapping[str, object],
) -> dict[str, object]:
    """Write embeddings, ranked pictures and, last, what ``write_results`` writes.

    Args:
        rows: queries, then gallery, as in ``embedding_RD`` and ``clip_count_R``.
        model: the model's fingerprint.
        title: of table and pictures.
        facts: what else ``metrics.json`` says.
    """
    labels = (EmbeddingRow.of(store, row, clip_count=int(count)) for row, count in zip(rows, clip_count_R, strict=True))
    table = EmbeddingTable(tuple(labels), embedding_RD.numpy(), model)
    write_embeddings(table, folder / "embeddings.parquet")
    queries = len(scores.evaluation.query)
    for name in SCORED_PROTOCOLS:
        if name in scores.evaluation.results:
            figure = draw_rankings(
                scores.evaluation,
                name,
                query_thumbnails=stored_thumbnails(store, rows[:queries]),
                gallery_thumbnails=stored_thumbnails(store, rows[queries:]),
                title=title,
            )
            for kind in ("svg", "png"):
                save_figure(figure, folder / f"rankings_{name}.{kind}")
    return write_results(folder, scores, title=title, facts={"model": model, **facts})


def write_results(folder: Path, scores: Scores, *, title: str, facts: Mapping[str, object]) -> dict[str, object]:
    """Write the per-query table, the table as text and, last, ``metrics.json``; returns what that holds."""
    write_query_table(scores.evaluation, folder / "queries.parquet")
    text = metrics_table(scores.evaluation, scores.single_shot, title=title)
    metrics = {**scores.to_json(), **facts}
    for file, content in (("metrics.txt", text), ("metrics.json", json.dumps(metrics, indent=1) + "\n")):
        with atomic_file(folder / file) as handle:
            handle.write(content.encode())
    return metrics


def stored_thumbnails(store: ShardFolder, rows: Sequence[int], *, frames: int = 3) -> Thumbnails:
    """Some frames of each tracklet, spread evenly over its time."""

    def thumbnails(index: int) -> list[Picture]:
        row = rows[index]
        positions = np.unique(
            np.linspace(0, store.rows[row].frame_count - 1, frames + 2).round().astype(np.int64)[1:-1]
        )
        clip_THWC = torch.empty((len(positions), *THUMBNAIL_SIZE, 3), dtype=torch.uint8)
        decode_clip_(clip_THWC.permute(0, 3, 1, 2), store, row, positions)
        return list(clip_THWC.numpy())

    return thumbnails
