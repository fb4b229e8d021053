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
from torch import Tensor

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
LARGE_GAIN = 0.1
"""Of the gap between one tracklet and two, from which the other order of colours is probably the right one."""


@dataclass(frozen=True, slots=True)
class CosineSample:
    """Cosines of clips of one tracklet (N,), and of clips of two (P,)."""

    within_N: npt.NDArray[np.float64]
    between_P: npt.NDArray[np.float64]

    @classmethod
    def of(cls, model: ClipEmbedder, clips_N2TCHW: Tensor) -> CosineSample:
        """Of the first and last clip of N tracklets."""
        with torch.no_grad():
            pairs = [model.embed_frames(clips_2TCHW.to(model.device)).double().cpu() for clips_2TCHW in clips_N2TCHW]
        first_ND, last_ND = torch.nn.functional.normalize(torch.stack(pairs, dim=1), dim=2)
        cosine_NN = (first_ND @ last_ND.T).numpy()
        return cls(np.diag(cosine_NN), cosine_NN[~np.eye(len(cosine_NN), dtype=bool)])

    @property
    def gap(self) -> float:
        """How much nearer clips of one tracklet are to one another than clips of two."""
        return float(self.within_N.mean() - self.between_P.mean())

    def doubts(self, exchanged: CosineSample) -> list[str]:
        """What looks wrong, with the numbers; nothing where all is well.

        Args:
            exchanged: the same clips with red and blue exchanged.
        """
        within, between = float(self.within_N.mean()), float(self.between_P.mean())
        found = []
        if (middle := float(np.median(self.between_P))) > ALIKE:
            found.append(
                f"half of all pairs of different tracklets have a cosine above {middle:.3f} (from "
                f"{self.between_P.min():.3f} to {self.between_P.max():.3f}): everybody looks the same to this network"
            )
        if self.gap <= 0:
            found.append(
                f"two clips of one tracklet have a mean cosine of {within:.3f}, those of different tracklets "
                f"{between:.3f}: one person is further from himself than from others"
            )
        if exchanged.gap > self.gap + LARGE_GAIN:
            found.append(
                f"two clips of one tracklet have a mean cosine of {within:.3f}, those of different tracklets "
                f"{between:.3f}, but with red and blue exchanged {exchanged.within_N.mean():.3f} and "
                f"{exchanged.between_P.mean():.3f}"
            )
        return found


def doubts_of_embedder(model: ClipEmbedder, store: ShardFolder, rows: Sequence[int], recipe: Recipe) -> list[str]:
    """What looks wrong with features of up to ``TRACKLETS`` tracklets among ``rows``, see ``CosineSample.doubts``.

    They are of different persons where these are known. Nothing if fewer than ``FEWEST_TRACKLETS`` can be read and have
    more than one clip.
    """
    found = (first_and_last(store, row, recipe) for row in some_tracklets(store, rows))
    clips = [clips_2TCHW for clips_2TCHW in found if clips_2TCHW is not None]
    if len(clips) < FEWEST_TRACKLETS:
        return []
    clips_N2TCHW = torch.stack(clips)
    exchanged = CosineSample.of(model, clips_N2TCHW.flip(-3))
    return CosineSample.of(model, clips_N2TCHW).doubts(exchanged)


def some_tracklets(store: ShardFolder, rows: Sequence[int]) -> list[int]:
    """Up to ``TRACKLETS`` of the rows, spread evenly over persons where known, else over the rows."""
    person_of: dict[object, int] = {}
    for row, person in zip(rows, store.rows.take(rows).text("person").to_pylist(), strict=True):
        person_of.setdefault(row if person is None else person, row)
    distinct = list(person_of.values())
    places = np.linspace(0, len(distinct) - 1, min(TRACKLETS, len(distinct))).round().astype(int)
    return [distinct[place] for place in places]


def first_and_last(store: ShardFolder, row: int, recipe: Recipe) -> Tensor | None:
    """uint8 (2, T, 3, H, W): a tracklet's first and last clip; None if it has only one or cannot be read."""
    options = recipe.model
    position_NT = all_clips(store.rows[row].frame_count, recipe.clip)
    if len(position_NT) < 2:
        return None
    clips_2TCHW = torch.empty((2, recipe.clip.length, 3, options.height, options.width), dtype=torch.uint8)
    try:
        for clip_TCHW, positions in zip(clips_2TCHW, position_NT[[0, -1]], strict=True):
            decode_clip_(clip_TCHW, store, row, positions, options.resize_filter)
    except InputError:  # embedding reports it
        return None
    return clips_2TCHW
