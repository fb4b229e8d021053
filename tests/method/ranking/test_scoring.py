"""Stored tracklets to embeddings: mirrored clips, and scores by the recipe's options."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ccvid.config import ModelOptions, ProtocolOptions, Recipe, ScoreOptions
from ccvid.model import ReIdModel
from ccvid.retrieval.embedding.embed import embed_tracklets
from ccvid.retrieval.embedding.table import EmbeddingTable, read_embeddings
from ccvid.retrieval.ranking.scoring import labelled_rows, score_embeddings
from ccvid.retrieval.report.mosaic import HeadHiding
from ccvid.retrieval.report.stored_pictures import StoredPictures
from ccvid.retrieval.results import write_scores
from ccvid.retrieval.thresholds.calibration import read_calibration
from data_tools.clips import ClipOptions, all_clips
from data_tools.errors import InputError
from data_tools.shards import ShardFolder
from data_tools.stored_frames import decode_clip_
from data_tools.transforms import normalise
from video_backbones.factory import build_backbone

MODEL = ModelOptions(backbone="c2d_resnet18_slim", weights="random", height=32, width=16)


@pytest.fixture(scope="module")
def model() -> ReIdModel:
    torch.manual_seed(0)
    return ReIdModel(build_backbone("c2d_resnet18_slim", weights="random"), nn.Identity()).eval()


def embed(model: ReIdModel, store: ShardFolder, rows: list[int], clip: ClipOptions, *, flip: bool = False) -> Tensor:
    embedding_RD, count_R = embed_tracklets(
        model,
        store,
        rows,
        Recipe(clip=clip, model=MODEL, score=ScoreOptions(clips_per_batch=3, flip=flip)),
    )
    assert count_R.tolist() == [len(all_clips(store.rows[row].frame_count, clip)) for row in rows]
    return embedding_RD


def tables(
    store: ShardFolder, embedding_RD: Tensor, query_rows: list[int], gallery_rows: list[int]
) -> tuple[EmbeddingTable, EmbeddingTable]:
    table = EmbeddingTable.of(
        store, [*query_rows, *gallery_rows], embedding_RD, torch.ones(len(embedding_RD), dtype=torch.int64), "m"
    )
    return table.take(range(len(query_rows))), table.take(range(len(query_rows), len(table.rows)))


def clips_of(store: ShardFolder, row: int, clip: ClipOptions) -> Tensor:
    positions = all_clips(store.rows[row].frame_count, clip)
    frames_NTCHW = torch.empty((len(positions), clip.length, 3, 32, 16), dtype=torch.uint8)
    for clip_TCHW, chosen in zip(frames_NTCHW, positions, strict=True):
        decode_clip_(clip_TCHW, store, row, chosen)
    return normalise(frames_NTCHW)


@pytest.mark.parametrize("length", [1, 4])
def test_flip_adds_the_feature_of_the_mirrored_clip(tiny_shards: Path, model: ReIdModel, length: int) -> None:
    """As released for images: feature + feature of the flipped image, normalised."""
    store, clip = ShardFolder(tiny_shards), ClipOptions(length=length, stride=1, piece=0)
    rows = [5, 0, 9]
    plain, flipped = embed(model, store, rows, clip), embed(model, store, rows, clip, flip=True)
    for number, row in enumerate(rows):
        frames_NTCHW = clips_of(store, row, clip)
        with torch.no_grad():
            own, mirrored = model.embed(frames_NTCHW).double(), model.embed(frames_NTCHW.flip(-1)).double()
        for found, feature_ND in ((plain[number], own), (flipped[number], own + mirrored)):
            expected = nn.functional.normalize(feature_ND.mean(dim=0), dim=0).float()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(plain, flipped, atol=1e-4)


def test_mirrored_footage_has_the_same_embedding_with_flip(model: ReIdModel) -> None:
    frames_BTCHW = torch.randn(2, 3, 3, 32, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one = model.embed(frames_BTCHW) + model.embed(frames_BTCHW.flip(-1))
        other = model.embed(frames_BTCHW.flip(-1)) + model.embed(frames_BTCHW)
    assert torch.equal(one, other)


def test_the_recipes_protocols_and_draws_are_scored_and_written(tiny_shards: Path, tmp_path: Path) -> None:
    store = ShardFolder(tiny_shards)
    query_rows, gallery_rows = labelled_rows(store, "query"), labelled_rows(store, "gallery")
    rows = [*query_rows, *gallery_rows]
    embedding_RD = nn.functional.normalize(torch.randn(len(rows), 6, generator=torch.Generator().manual_seed(2)), dim=1)
    cameras = tuple(sorted({store.rows[row].camera for row in rows}))
    options = ScoreOptions(
        protocols=(ProtocolOptions(name="everywhere", within={"camera": cameras}),), single_shot_draws=3
    )
    query, gallery = tables(store, embedding_RD, query_rows, gallery_rows)
    scores = score_embeddings(query, gallery, options)
    written = write_scores(
        tmp_path / "new",
        scores,
        query,
        gallery.rows,
        [gallery],
        StoredPictures([store], HeadHiding(None)),
        options,
        weights="w",
        title="t",
        facts={"dataset": "d"},
    )
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == written
    protocols = json.loads(json.dumps(written["protocols"]))
    assert list(protocols) == ["general", "same_clothes", "clothes_changing", "everywhere"]
    assert protocols["everywhere"] == protocols["general"]
    assert "One gallery tracklet per person, 3 draws" in (tmp_path / "new" / "metrics.txt").read_text()
    assert (written["model"], written["embedder"]) == ("w", "m")
    embeddings = read_embeddings(tmp_path / "new" / "embeddings.parquet", model="m")
    assert [row.id for row in embeddings.rows] == [store.rows[row].id for row in rows]
    np.testing.assert_array_equal(embeddings.embedding_ND, embedding_RD)
    read_calibration(tmp_path / "new" / "calibration.json").probability(np.array([0.5]), model="m")
    assert {path.name for path in (tmp_path / "new").iterdir()} >= {
        "report",
        "thresholds.json",
        "queries.parquet",
        "rankings_general.svg",
        "rankings_clothes_changing.png",
    }


def test_features_that_are_not_numbers_are_refused(tiny_shards: Path) -> None:
    store = ShardFolder(tiny_shards)
    query_rows, gallery_rows = labelled_rows(store, "query"), labelled_rows(store, "gallery")
    embedding_RD = torch.ones(len(query_rows) + len(gallery_rows), 4)
    embedding_RD[2, 1] = float("nan")
    query, gallery = tables(store, embedding_RD, query_rows, gallery_rows)
    with pytest.raises(InputError, match="query embedding row 2, column 1 is nan"):
        score_embeddings(query, gallery)
