"""A whole run on one rank: train, then score the test set once."""

from __future__ import annotations

from collections.abc import Mapping

from ccvid.config import Recipe
from ccvid.retrieval.embedding.store import EmbedderDescription
from ccvid.retrieval.embedding.table import EmbeddingTable
from ccvid.retrieval.ranking.protocols import with_own
from ccvid.retrieval.ranking.scoring import labelled_rows, score_embeddings
from ccvid.retrieval.report.mosaic import read_hiding
from ccvid.retrieval.report.stored_pictures import StoredPictures
from ccvid.retrieval.results import write_scores
from ccvid.trained_model import backbone_fingerprint
from ccvid.training.context import RunContext
from ccvid.training.step_log import add_test_scores
from ccvid.training.trainer import Trainer
from data_tools.progress import message, state
from data_tools.shards import ShardFolder


def train_and_score(
    recipe: Recipe, run: RunContext, store: ShardFolder, *, score_test: bool = True
) -> Mapping[str, object]:
    """Train the rest of the run, then score the test set if ``score_test``.

    Returns:
        On rank 0 the content of ``metrics.json``, {} if there is nothing to score; {} on the other ranks.
    """
    with_own(recipe.score.protocols)  # refuse a taken name before training, not after it
    trainer = Trainer(recipe, store, run)
    trainer.fit()
    results = score_test_set(trainer) if score_test else {}
    run.publish()
    return results


def score_test_set(trainer: Trainer) -> Mapping[str, object]:
    """Score queries against the gallery with the weights that the recipe asks for, and write the run's results."""
    recipe, run, store = trainer.recipe, trainer.run, trainer.store
    query_rows, gallery_rows = labelled_rows(store, "query"), labelled_rows(store, "gallery")
    if not query_rows or not gallery_rows:
        if run.rank == 0:
            message("The test set is not scored: it has no labelled query and gallery tracklets.")
        return {}
    epoch = recipe.train.epochs
    if recipe.train.test_weights == "best":
        trainer.load_best()
        epoch = trainer.progress.best_epoch
    if run.rank == 0:
        state(f"scoring {len(query_rows)} queries against {len(gallery_rows)} gallery tracklets")
    rows = [*query_rows, *gallery_rows]
    embedded = trainer.embed(rows)
    if run.rank != 0:
        return {}
    run.rest()  # scoring and the report signal no progress
    state("computing metrics")
    backbone = trainer.scored_model.backbone
    embedder = EmbedderDescription.of(backbone_fingerprint(backbone), backbone.feature_size, recipe)
    table = EmbeddingTable.of(store, rows, *embedded, model=embedder.fingerprint)
    queries = range(len(query_rows))
    query, gallery = table.take(queries), table.take(range(len(queries), len(rows)))
    scores = score_embeddings(query, gallery, recipe.score)
    state("writing results and report")
    trained = f"{recipe.method.title} {recipe.model.backbone}, {recipe.train.test_weights} epoch {epoch}"
    results = write_scores(
        run.folder,
        scores,
        query,
        gallery.rows,
        [gallery],
        StoredPictures([store], read_hiding(recipe.report)),
        recipe.score,
        weights=embedder.model,
        title=f"{store.manifest.dataset}, {trained}",
        facts={
            "dataset": store.manifest.dataset,
            "shards": str(recipe.data.shards or store.folder),
            "epoch": epoch,
            "seed": recipe.train.seed,
        },
    )
    add_test_scores(run.sinks, trainer.progress.updates - 1, results)
    return results
