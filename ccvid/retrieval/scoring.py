"""Scoring stored tracklets under every protocol, and the files that tell of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ccvid.retrieval.distances import CosineDistances
from ccvid.retrieval.embeddings import EmbeddingRow, EmbeddingTable, write_embeddings
from ccvid.retrieval.labels import RetrievalLabels
from ccvid.retrieval.metrics import Evaluation, evaluate
from ccvid.retrieval.ranked_picture import Picture, Thumbnails, draw_rankings, save_figure
from ccvid.retrieval.tables import metrics_table, write_query_table
from data_tools.manifest import atomic_file
from data_tools.shards import ShardFolder
from data_tools.stored_frames import decode_clip_
from data_tools.tracklet import Split

SCORED_PROTOCOLS = ("clothes_changing", "general")
"""What a single score is taken from: the first that applies."""
PICTURED_PLACES = 20
THUMBNAIL_SIZE = (256, 128)


def labelled_rows(store: ShardFolder, split: Split) -> list[int]:
    """The rows of a split whose person is known: only they can be scored."""
    return [number for number, row in enumerate(store.rows) if row.split == split and row.person is not None]


def score_embeddings(
    store: ShardFolder, embedding_RD: Tensor, query_rows: Sequence[int], gallery_rows: Sequence[int]
) -> Evaluation:
    """Score embeddings, (queries + gallery, D) in that order, by cosine distance under every protocol."""
    query, gallery = (RetrievalLabels.from_rows(store.rows[row] for row in rows) for rows in (query_rows, gallery_rows))
    embedding = embedding_RD.numpy()
    distances = CosineDistances(embedding[: len(query_rows)], embedding[len(query_rows) :])
    return evaluate(distances, query, gallery, top_k=PICTURED_PLACES)


def single_score(evaluation: Evaluation) -> float:
    """Clothes-changing mAP, or general where nobody changes clothes."""
    for name in SCORED_PROTOCOLS:
        if name in evaluation.results:
            return evaluation.results[name].mean_average_precision
    return next(iter(evaluation.results.values())).mean_average_precision


def write_scores(
    folder: Path,
    store: ShardFolder,
    evaluation: Evaluation,
    rows: Sequence[int],
    embedding_RD: Tensor,
    clip_count_R: Tensor,
    *,
    model: str,
    title: str,
    facts: Mapping[str, object],
) -> dict[str, object]:
    """Write embeddings, per-query table, ranked pictures, the table as text and, last, ``metrics.json``.

    Args:
        rows: queries, then gallery, as in ``embedding_RD`` and ``clip_count_R``.
        model: the model's fingerprint.
        title: of table and pictures.
        facts: what else ``metrics.json`` says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = store.manifest.shards
    table = EmbeddingTable(
        tuple(
            EmbeddingRow(
                **{name: getattr(store.rows[row], name) for name in ("id", "person", "clothes", "camera", "split")},
                attributes=store.rows[row].attributes,
                clip_count=int(count),
                shard=shards[store.rows[row].shard].sha256,
            )
            for row, count in zip(rows, clip_count_R, strict=True)
        ),
        embedding_RD.numpy(),
        model,
    )
    write_embeddings(table, folder / "embeddings.parquet")
    write_query_table(evaluation, folder / "queries.parquet")
    queries = len(evaluation.query)
    for name in SCORED_PROTOCOLS:
        if name in evaluation.results:
            figure = draw_rankings(
                evaluation,
                name,
                query_thumbnails=stored_thumbnails(store, rows[:queries]),
                gallery_thumbnails=stored_thumbnails(store, rows[queries:]),
                title=title,
            )
            for kind in ("svg", "png"):
                save_figure(figure, folder / f"rankings_{name}.{kind}")
    text = metrics_table(evaluation, title=title)
    metrics = {**evaluation.to_json(), "model": model, **facts}
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
