"""Scoring weights on the held-out identities: the same figures, whoever does it.

Shape letters: R held-out tracklets, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ccvid.config import Recipe
from ccvid.model import ReIdModel
from ccvid.retrieval.embedding.embed import embed_tracklets
from ccvid.retrieval.embedding.table import EmbeddingTable
from ccvid.retrieval.ranking.metrics import Evaluation
from ccvid.retrieval.ranking.scoring import score_embeddings, single_score
from ccvid.training.distributed import interleave
from data_tools.shards import ShardFolder


@dataclass(frozen=True, slots=True)
class HeldOutScores:
    """What a validation finds."""

    single: float
    """The score that chooses the best epoch, in [0, 1]: clothes-changing mAP, or general if nobody changes clothes."""
    mean_average_precision: Mapping[str, float]
    """By protocol, in [0, 1]."""
    tracklets: int

    @classmethod
    def of(cls, evaluation: Evaluation) -> HeldOutScores:
        """The part that is logged."""
        found = {name: result.mean_average_precision for name, result in evaluation.results.items()}
        return cls(single_score(evaluation), found, len(evaluation.query))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """All that scoring takes besides the shards; it can be sent to another process."""

    model: ReIdModel
    recipe: Recipe
    """With its precision decided, and the loader that fits the process."""
    rows: tuple[int, ...]
    """The tracklets of the held-out identities, in the store."""
    world_size: int
    """The number of training workers."""

    def score(self, store: ShardFolder, progress: Callable[[int], None] | None = None) -> HeldOutScores:
        """Score the model's present weights in this process alone.

        Tracklets are embedded in the batches that the training workers would make of them, because the last bits of a
        feature may depend on the size of its batch.

        Args:
            progress: called with the number of clips of each batch.

        Raises:
            InputError: a frame cannot be decoded.
        """
        model = self.model.eval()
        shares = [self.rows[rank :: self.world_size] for rank in range(self.world_size)]
        embedded = [embed_tracklets(model, store, share, self.recipe, progress) for share in shares]
        embedding_RD, clip_count_R = (interleave(parts) for parts in zip(*embedded, strict=True))
        return HeldOutScores.of(evaluate_held_out(store, self.rows, embedding_RD, clip_count_R))


def evaluate_held_out(
    store: ShardFolder, rows: tuple[int, ...], embedding_RD: Tensor, clip_count_R: Tensor
) -> Evaluation:
    """Score each held-out tracklet against all others."""
    table = EmbeddingTable.of(store, list(rows), embedding_RD, clip_count_R, model="in training")
    return score_embeddings(table, table).evaluation
