"""Does an embedder tell people apart at all? A wrong order of colours or range of values is seen in its cosines.

Of some tracklets, two clips each are embedded, the first and the last. Clips of one tracklet show one person, those of
two tracklets mostly two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ccvid.config import Recipe
from ccvid.retrieval.embedding.clip_embedder import ClipEmbedder
from data_tools.clips import all_clips
from data_tools.errors import InputError
from data_tools.shards import ShardFolder
from data_tools.stored_frames import decode_clip_

TRACKLETS = 16
FEWEST_TRACKLETS = 4
ALIKE = 0.95
"""Cosine of two tracklets above which an embedder hardly tells them apart, if half of all are."""


@dataclass(frozen=True, slots=True)
class CosineSample:
    """Cosines of clips of one tracklet, and of clips of two."""

    within_N: npt.NDArray[np.float64]
    between_P: npt.NDArray[np.float64]

    @classmethod
    def of(cls, model: ClipEmbedder, store: ShardFolder, rows: Sequence[int], recipe: Recipe) -> CosineSample | None:
        """Of up to ``TRACKLETS`` tracklets among ``rows``, of different persons where they are known.

        None if fewer than ``FEWEST_TRACKLETS`` can be read and have more than one clip.
        """
        found = (_ends(model, store, row, recipe) for row in some_tracklets(store, rows))
        feature_NPD = [feature_PD for feature_PD in found if feature_PD is not None]
        if len(feature_NPD) < FEWEST_TRACKLETS:
            return None
        first_ND, last_ND = np.stack(feature_NPD, axis=1)
        cosine_NN = first_ND @ last_ND.T
        return cls(np.diag(cosine_NN), cosine_NN[~np.eye(len(cosine_NN), dtype=bool)])

    def doubts(self) -> list[str]:
        """What looks wrong, with the numbers; nothing where all is well."""
        within, between = float(self.within_N.mean()), float(np.median(self.between_P))
        found = []
        if between > ALIKE:
            found.append(
                f"half of all pairs of different tracklets have a cosine above {between:.3f} (from "
                f"{self.between_P.min():.3f} to {self.between_P.max():.3f}): everybody looks the same to this network"
            )
        if within <= float(self.between_P.mean()):
            found.append(
                f"two clips of one tracklet have a mean cosine of {within:.3f}, those of different tracklets "
                f"{self.between_P.mean():.3f}: one person is further from himself than from others"
            )
        return found


def some_tracklets(store: ShardFolder, rows: Sequence[int]) -> list[int]:
    """Up to ``TRACKLETS`` of the rows, spread evenly over persons where known, else over the rows."""
    person_of: dict[object, int] = {}
    for row, person in zip(rows, store.rows.take(rows).text("person").to_pylist(), strict=True):
        person_of.setdefault(row if person is None else person, row)
    distinct = list(person_of.values())
    places = np.linspace(0, len(distinct) - 1, min(TRACKLETS, len(distinct))).round().astype(int)
    return [distinct[place] for place in places]


def _ends(model: ClipEmbedder, store: ShardFolder, row: int, recipe: Recipe) -> npt.NDArray[np.float64] | None:
    """Unit features (2, D) of a tracklet's first and last clip; None if it has only one or cannot be read."""
    options = recipe.model
    position_NT = all_clips(store.rows[row].frame_count, recipe.clip)
    if len(position_NT) < 2:
        return None
    clips_NTCHW = torch.empty((2, recipe.clip.length, 3, options.height, options.width), dtype=torch.uint8)
    try:
        for clip_TCHW, positions in zip(clips_NTCHW, position_NT[[0, -1]], strict=True):
            decode_clip_(clip_TCHW, store, row, positions, options.resize_filter)
    except InputError:  # embedding reports it
        return None
    with torch.no_grad():
        feature_ND = model.embed_frames(clips_NTCHW.to(model.device)).double().cpu().numpy()
    unit_ND: npt.NDArray[np.float64] = feature_ND / np.maximum(np.linalg.norm(feature_ND, axis=1, keepdims=True), 1e-30)
    return unit_ND
