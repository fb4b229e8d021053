"""What runs leave behind and others give, for the campaign of hostile inputs: distances, embeddings, checkpoints,
decisions, settings and records."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import onnxruntime  # noqa: F401 - these two once for all workers, so that no input pays for them
import timm  # noqa: F401
import torch
from onnx import TensorProto, helper
from torch import nn

from ccvid.config import ModelOptions, Recipe, ReportOptions, RunOptions, ScoreOptions, TrainOptions
from ccvid.exported_model import CARD_FILE, ONNX_FILE, ModelCard
from ccvid.model import CosineClassifier, IdentityClassifier, ReIdModel
from ccvid.onnx_model import read_onnx_model
from ccvid.released import import_released
from ccvid.retrieval.embedding.store import EmbedderDescription, open_store, read_store
from ccvid.retrieval.embedding.table import (
    EmbeddingRow,
    EmbeddingRows,
    EmbeddingTable,
    read_embeddings,
    write_embeddings,
)
from ccvid.retrieval.gallery.decisions import read_decisions
from ccvid.retrieval.gallery.matches import RankedMatches, write_matches
from ccvid.retrieval.ranking.distances import Distances
from ccvid.retrieval.ranking.given import GivenRetrieval, read_distances, read_features
from ccvid.retrieval.ranking.given_doubts import doubts_of_order, without_junk
from ccvid.retrieval.ranking.scoring import score
from ccvid.retrieval.report.stored_pictures import open_sources
from ccvid.retrieval.report.tables import write_query_table
from ccvid.retrieval.thresholds.calibration import Calibration, write_calibration
from ccvid.run_files import CLOTHES_FILE, METRICS_FILE
from ccvid.trained_model import configured_backbone, read_trained_model, write_description
from ccvid.training.checkpoint import Progress, TrainedParts, load_checkpoint, save_checkpoint, save_weights
from ccvid.training.seeds import SeedSummary, read_seed_metrics
from data_tools.clips import ClipOptions
from data_tools.errors import InputError
from data_tools.files import sha256_of
from data_tools.manifest import write_model
from data_tools.shard_cache import CacheOptions
from data_tools.storage import StorageFolder
from ray_jobs.begun_runs import as_begun
from ray_jobs.cli import parse_recipe, read_recipe, write_config
from ray_jobs.scoring.comparison import compare_results
from ray_jobs.scoring.evaluation import results_folder
from ray_jobs.tuning.records import SearchRecords
from ray_jobs.tuning.results import best_recipe
from ray_jobs.tuning.space import read_space
from ray_jobs.tuning.tables import results_table
from tests.data.hostile_samples import BrokenPromiseError, Kind, Sample
from video_backbones.factory import build_backbone

NOWHERE = "/nowhere"
"""A location that samples refer to; each campaign has another one for its own folder."""

# Distances and embeddings --------------------------------------------------------------------------------------------

GIVEN: Mapping[str, Any] = {
    "q_pids": np.array([7, 8]),
    "g_pids": np.array([7, 8, 7], np.uint8),
    "q_camids": np.array([1, 1]),
    "g_camids": np.array([2, 2, 3]),
    "q_oids": np.array(["red", ""]),
    "g_oids": np.array(["red", "blue", ""]),
    "q_scale": np.array(["l", "m"]),
    "g_scale": np.array(["l", "", "m"]),
}
DISTANCES = {"distmat": np.array([[0.1, 0.2, 0.3], [0.9, 0.5, 0.8]])}
FEATURES = {
    "qf": np.array([[1.0, 0.0], [0.6, 0.8]]),
    "gf": np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32),
}


def _make_archive(arrays: Mapping[str, Any], folder: Path) -> None:
    np.savez(folder / "given.npz", **arrays, **GIVEN)
    np.savez_compressed(folder / "packed.npz", **arrays, **GIVEN)


def _read_archives(read: Callable[[Path], GivenRetrieval], folder: Path) -> None:
    for name in ("given.npz", "packed.npz"):
        _score(read(folder / name), folder / name)


def _score(given: GivenRetrieval, source: Path) -> None:
    """Like ``evaluate.py``."""
    try:
        kept, _ = without_junk(given)
        if not np.isfinite(kept.distances.pairs(*np.indices(kept.distances.shape).reshape(2, -1))).all():
            raise BrokenPromiseError("distances that are not finite")
        doubts_of_order(score(*kept, ScoreOptions()).evaluation, similarities=True)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


EMBEDDER = EmbedderDescription(
    model="a", dimensions=3, height=32, width=16, clip=ClipOptions(), resize_filter="bicubic", flip=False, bf16=False
)


def _table() -> EmbeddingTable:
    labels = (
        ("ann", "query", "east"),
        ("ann", "gallery", "west"),
        ("bob", "query", "east"),
        ("bob", "gallery", "west"),
    )
    rows = tuple(
        EmbeddingRow(f"{person}/{n}", person, "coat", camera, split, {"start_seconds": f"{n}.5"}, 2, "s")  # type: ignore[arg-type]
        for n, (person, split, camera) in enumerate(labels)
    )
    values = np.random.default_rng(0).standard_normal((len(rows), 3)).astype(np.float32)
    return EmbeddingTable(EmbeddingRows.of(rows), values, EMBEDDER.fingerprint)


def _read_table(folder: Path) -> None:
    read_embeddings(folder / "given.parquet")
    _score(read_features(folder / "given.parquet"), folder / "given.parquet")


def _make_store(folder: Path) -> None:
    store = open_store(StorageFolder(str(folder / "store")), EMBEDDER)
    table = _table()
    store.add(table.take([0, 1]))
    store.add(table.take([2, 3]))
    store.add_source(f"{NOWHERE}/shards")
    store.remove(ids=["ann/0"])


def _read_store(folder: Path) -> None:
    """Like scoring a gallery, showing its pictures, and removing tracklets from it."""
    store = read_store(StorageFolder(str(folder / "store")))
    table = store.read()
    matches = RankedMatches(
        table.rows, table.rows, np.zeros((len(table.rows), 1), np.int64), np.ones((len(table.rows), 1))
    )
    write_matches(matches, folder)
    store.missing({"bob/2": "s", "ann/0": "s", "new": "t"})
    store.add_source("elsewhere")
    open_sources(store.sources(), CacheOptions(folder=folder / "cache"))
    store.remove(persons=["bob"])
    open_store(store.folder, EMBEDDER)


# Checkpoints ---------------------------------------------------------------------------------------------------------

SLIM = ModelOptions(backbone="c2d_resnet18_slim", weights="random", height=32, width=16)
SMALL = ModelOptions(backbone="timm/test_byobnet", weights="random", height=64, width=32)
CLIP = ClipOptions(length=2)
PERSONS, OUTFITS = 3, 4


@cache
def _parts(average: bool) -> TrainedParts:
    torch.manual_seed(0)
    model = _model(SMALL)
    clothes = CosineClassifier(model.backbone.feature_size, OUTFITS)
    optimizer = torch.optim.Adam(model.parameters())
    clothes_optimizer = torch.optim.Adam(clothes.parameters())
    for part, rule in ((model, optimizer), (clothes, clothes_optimizer)):
        for parameter in part.parameters():
            parameter.grad = torch.zeros_like(parameter)
        rule.step()
    averaged = torch.optim.swa_utils.AveragedModel(model) if average else None
    return TrainedParts(model, {"model": optimizer, "clothes": clothes_optimizer}, {CLOTHES_FILE: clothes}, averaged)


def _model(options: ModelOptions) -> ReIdModel:
    backbone = configured_backbone(options, CLIP)
    return ReIdModel(backbone, IdentityClassifier(backbone.feature_size, PERSONS))


def _make_checkpoint(options: ModelOptions, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_weights(_model(options), folder / "model.safetensors")
    write_description(folder, options, CLIP, persons=PERSONS, clothes=OUTFITS)
    (folder / "progress.json").write_text(json.dumps({"epoch": 3, "step": 4}))


def _make_run(folder: Path) -> None:
    _make_checkpoint(SMALL, folder / "best")
    _make_checkpoint(SMALL, folder / "checkpoint_000001")
    _make_checkpoint(SMALL, folder / "checkpoint_000002")
    recipe = Recipe(model=SMALL, train=TrainOptions(held_out_share=0.1, test_weights="best"))
    (folder / "config.yaml").write_text(write_config(recipe))


def _read_checkpoint(folder: Path) -> None:
    """Like scoring, evaluating and exporting."""
    _check_finite(read_trained_model(folder, SLIM).backbone)


def _check_finite(module: nn.Module) -> None:
    if not all(tensor.isfinite().all() for tensor in module.state_dict().values()):
        raise BrokenPromiseError("weights that are not finite")


def _make_released(folder: Path) -> None:
    torch.manual_seed(0)
    backbone = configured_backbone(SLIM, None)
    size = backbone.feature_size
    content = {
        "model_state_dict": backbone.state_dict(),
        "classifier_state_dict": {
            "classifier.weight": torch.rand(PERSONS, size),
            "classifier.bias": torch.rand(PERSONS),
        },
        "clothes_classifier_state_dict": {"weight": torch.rand(OUTFITS, size)},
        "rank1": np.float64(0.5),
        "epoch": 149,
    }
    torch.save(content, folder / "released.pth.tar")


def _read_released(folder: Path) -> None:
    import_released(folder / "released.pth.tar", folder / "imported", SLIM)
    _read_checkpoint(folder / "imported")


def _make_bare(folder: Path) -> None:
    torch.manual_seed(0)
    torch.save(configured_backbone(SMALL, CLIP).state_dict(), folder / "weights.pth")


def _read_bare(folder: Path) -> None:
    """As initial weights, and as a trained model."""
    _check_finite(build_backbone(SMALL.backbone, weights=folder / "weights.pth", clip_size=(2, 64, 32)))
    _check_finite(read_trained_model(folder / "weights.pth", SMALL).backbone)


def _make_resumed(average: bool, folder: Path) -> None:
    save_checkpoint(folder, _parts(average), Progress(epoch=1, step=2, steps_per_epoch=4, updates=6))


def _read_resumed(average: bool, folder: Path) -> None:
    parts = _parts(average)
    progress = load_checkpoint(folder, parts)
    if not 0 <= progress.in_epochs_of(5).step <= 5 or not -1 <= progress.best_score <= 1:
        raise BrokenPromiseError("a progress that none is")
    for module in (parts.model, parts.scored_model, *parts.heads.values()):
        _check_finite(module)


def _make_export(folder: Path) -> None:
    """A graph that sums colours."""
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, ["clips", "frames", 3, 32, 16])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["clips", 3])
    nodes = [
        helper.make_node("Cast", ["frames"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["features"], keepdims=0),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 3, 4])
    graph = helper.make_graph(nodes, "g", [frames], [features], [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / ONNX_FILE)
    card = ModelCard(
        fingerprint="a", model=SLIM, clip=CLIP, feature_size=3, least_frames=1, most_frames=None, torch_version="2",
        opset=18, checked={}, sha256={ONNX_FILE: sha256_of(folder / ONNX_FILE)},
    )  # fmt: skip
    write_model(folder / CARD_FILE, card)


def _read_export(folder: Path) -> None:
    model = read_onnx_model(folder / ONNX_FILE)
    model.embed_frames(torch.zeros((1, 2, 3, 32, 16), dtype=torch.uint8))


# Decisions -----------------------------------------------------------------------------------------------------------


def _make_decisions(folder: Path) -> None:
    (folder / "thresholds.json").write_text(
        json.dumps({"model": "m", "recommended": {"threshold": {"value": 0.4, "far": 0.01}}, "curves": [[0.1, 0.2]]})
    )
    curve = Calibration(
        method="isotonic", model="m", prior=0.1, genuine_pairs=5, impostor_pairs=7, scores=(0.1, 0.5, 0.9),
        log_odds=(-2, 0, 2),
    )  # fmt: skip
    write_calibration(curve, folder / "calibration.json")


def _read_decisions(folder: Path) -> None:
    decisions = read_decisions(StorageFolder(str(folder)))
    row = EmbeddingRow("t", None, None, "east", "gallery", {}, 1, "s")
    matches = RankedMatches([row], [row], np.zeros((1, 3), np.int64), np.array([[0.9, 0.3, -np.inf]]))
    laid = decisions.add_probabilities(matches, model=decisions.model).probability_QK
    if laid is not None and not ((laid >= 0) & (laid <= 1)).all():
        raise BrokenPromiseError("probabilities outside 0 to 1")
    if decisions.threshold is not None and not np.isfinite(decisions.threshold):
        raise BrokenPromiseError("a threshold that is not finite")


# Settings and records ------------------------------------------------------------------------------------------------

SPACE = """
optim.learning_rate: {log_range: [0.00001, 0.01]}
batch.clips: {range: [2, 8]}
optim.milestones: {choices: [[20, 40], [10]]}
"""
SEARCH = {"searcher": "random", "grace": 20, "space": {"optim.learning_rate": {"log_range": [0.00001, 0.01]}}}
TRAIN = TrainOptions(held_out_share=0.1, epochs=60, test_weights="best")


def _make_recipe(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(write_config(Recipe.model_validate(read_recipe("synthetic"))))


def _read_recipe(folder: Path) -> None:
    recipe, _ = parse_recipe(["--recipe", str(folder / "recipe.yaml")], program="train.py", description="")
    write_config(recipe)


def _make_begun(folder: Path) -> None:
    (folder / "config.yaml").write_text(write_config(Recipe()))


def _read_begun(folder: Path) -> None:
    as_begun(StorageFolder(str(folder)), Recipe())


def _read_space(folder: Path) -> None:
    space = read_space(str(folder / "space.yaml"), Recipe())
    space.draw(Random(0))
    if space.count is not None:
        list(islice(space.grid(), 5))


def _make_search(folder: Path) -> None:
    (folder / "space.yaml").write_text(SPACE)
    records = SearchRecords(StorageFolder(str(folder)), SEARCH)
    for number in range(4):
        values = {"optim.learning_rate": 0.001 + 0.001 * number, "batch.clips": 4, "optim.milestones": [20, 40]}
        record = records.add(values, 60)
        record.state, record.epoch, record.seconds = "finished", 60, 30.5
        record.history = [(10, 0.25), (20, 0.5)]
        record.score = record.best_score = 0.5
    records.save()


def _read_search(folder: Path) -> None:
    space = read_space(str(folder / "space.yaml"), Recipe())
    records = SearchRecords(StorageFolder(str(folder)), SEARCH, space)
    best = records.best(TRAIN)
    if best is not None:
        best_recipe(records, best, Recipe(train=TRAIN))
    if records.trials:
        results_table(records, TRAIN, "search")
    [records.trials[record.number].score_at(20) for record in records.trials]
    records.save()


def _make_results(folder: Path) -> None:
    """Two results folders, as for ``evaluate.py --compare``."""
    table = _table()
    for number, name in enumerate(("first", "second")):
        (folder / name).mkdir()
        write_embeddings([table], folder / name / "embeddings.parquet")
        given = read_features(folder / name / "embeddings.parquet")
        scores = score(*_shifted(given, number), ScoreOptions())
        write_query_table(scores.evaluation, folder / name / "queries.parquet")
        metrics = {"source": f"{NOWHERE}/{name}", "shards": f"{NOWHERE}/shards", **scores.to_json()}
        (folder / name / METRICS_FILE).write_text(json.dumps(metrics))


def _shifted(given: GivenRetrieval, number: int) -> GivenRetrieval:
    rows = np.arange(given.distances.shape[1])
    distances: Distances = given.distances.take(np.arange(given.distances.shape[0]), rows[::-1] if number else rows)
    return given._replace(distances=distances)


def _read_results(folder: Path) -> None:
    sources = [StorageFolder(str(folder / name)) for name in ("first", "second")]
    run = RunOptions(name="x", storage=str(folder / "compared"))
    compare_results(sources, run, CacheOptions(folder=folder / "cache"), ReportOptions(), name=None)


def _read_metrics(folder: Path) -> None:
    metrics = read_seed_metrics(folder / "first" / METRICS_FILE)
    SeedSummary.of({0: metrics, 1: metrics}).table("seeds")
    json.dumps(SeedSummary.of({0: metrics, 1: metrics}).to_json(), allow_nan=False)
    results_folder(RunOptions(name="first", storage=str(folder)), Path(NOWHERE, "first"))


def _text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


RESULTS = {
    "distances": Kind(
        7,
        {
            "distances": Sample(partial(_make_archive, DISTANCES), ("*.npz",), partial(_read_archives, read_distances)),
            "features": Sample(partial(_make_archive, FEATURES), ("*.npz",), partial(_read_archives, read_features)),
        },
    ),
    "embeddings": Kind(
        7,
        {
            "table": Sample(
                lambda folder: write_embeddings([_table()], folder / "given.parquet"), ("given.parquet",), _read_table
            ),
            "store": Sample(_make_store, ("store/*",), _read_store),
        },
    ),
    "checkpoints": Kind(
        6,
        {
            "small": Sample(partial(_make_checkpoint, SMALL), ("model.*",), _read_checkpoint),
            "run": Sample(_make_run, ("config.yaml", "best/*", "checkpoint_000002/*"), _read_checkpoint),
            "slim": Sample(partial(_make_checkpoint, SLIM), ("model.*",), _read_checkpoint),
            "released": Sample(_make_released, ("*.pth.tar",), _read_released),
            "bare": Sample(_make_bare, ("weights.pth",), _read_bare),
            "resumed": Sample(partial(_make_resumed, False), ("*",), partial(_read_resumed, False)),
            "averaged": Sample(partial(_make_resumed, True), ("*",), partial(_read_resumed, True)),
            "export": Sample(_make_export, ("*",), _read_export),
        },
    ),
    "decisions": Kind(3, {"decisions": Sample(_make_decisions, ("*.json",), _read_decisions)}),
    "settings": Kind(
        5,
        {
            "recipe": Sample(_make_recipe, ("recipe.yaml",), _read_recipe),
            "space": Sample(_text("space.yaml", SPACE), ("space.yaml",), _read_space),
            "run": Sample(_make_begun, ("config.yaml",), _read_begun),
        },
    ),
    "records": Kind(
        5,
        {
            "search": Sample(_make_search, ("search.json",), _read_search),
            "metrics": Sample(_make_results, ("first/metrics.json",), _read_metrics),
            "compared": Sample(_make_results, ("first/*", "second/queries.parquet"), _read_results),
        },
    ),
}
