"""The training and held-out tracklets of a data set, and their class labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ccvid.config import Recipe, TrainOptions
from data_tools.colour_outfits import guess_outfits
from data_tools.errors import InputError
from data_tools.loader import Integers, TrainingItems
from data_tools.shards import ShardFolder, ShardRow

Label = TypeVar("Label", str, tuple[str, str])


@dataclass(frozen=True, slots=True)
class TrainingSplit:
    """Training items with class numbers, and the rows of the held-out identities.

    A class number is the position in the sorted ``persons`` or ``clothes`` (pairs of person and clothes label);
    ``owner_N`` is the person class of each clothes class.
    """

    items: TrainingItems
    persons: tuple[str, ...]
    clothes: tuple[tuple[str, str], ...]
    owner_N: Integers
    held_out_rows: tuple[int, ...]


def split_for(recipe: Recipe, store: ShardFolder) -> TrainingSplit:
    """The split for a recipe; raises as :func:`split_training` does."""
    method = recipe.method
    return split_training(
        store,
        recipe.train,
        piece=recipe.clip.piece,
        needs_clothes=method.clothes_loss or recipe.batch.spread_outfits,
        colour_distance=method.colour_distance if method.clothes_labels == "colours" else None,
        threads=recipe.loader.threads,
    )


def split_training(
    store: ShardFolder,
    train: TrainOptions,
    *,
    piece: int,
    needs_clothes: bool,
    colour_distance: float | None = None,
    threads: int = 2,
) -> TrainingSplit:
    """Divide the labelled tracklets of split ``train`` into training and held-out ones.

    Args:
        piece: frames of a dense-sampling piece, 0 for whole tracklets.
        needs_clothes: whether every training tracklet must have a clothes label; if not, a missing one counts as the
            person's outfit "".
        colour_distance: if clothes are needed, guess outfits from colours with this distance instead of using labels.
        threads: number of threads that decode frames to guess outfits.

    Raises:
        InputError: there is nothing to train on, or clothes labels are missing.
    """
    rows = [(number, row) for number, row in enumerate(store.rows) if row.split == "train" and row.person is not None]
    if not rows:
        raise InputError(
            f"{store.folder}: no tracklet of split 'train' has a person label, so there is nothing to train on"
        )
    held_out = _held_out_persons([row for _, row in rows], train)
    kept = [(number, row) for number, row in rows if row.person not in held_out]
    outfits = [row.clothes for _, row in kept]
    if needs_clothes and colour_distance is not None:
        outfits = _guessed_outfits(store, kept, colour_distance, threads)
    unlabelled = [row.id for (_, row), outfit in zip(kept, outfits, strict=True) if outfit is None]
    if needs_clothes and unlabelled:
        raise InputError(
            f"{store.folder}: {len(unlabelled)} of {len(kept)} training tracklets have no clothes label (first: "
            f"{unlabelled[0]}), which CAL and batch.spread_outfits need; label them, guess outfits from colours with "
            "--method.clothes_labels colours, or train the baseline with --method.clothes_loss false"
        )
    pairs = [(str(row.person), outfit or "") for (_, row), outfit in zip(kept, outfits, strict=True)]
    persons = tuple(sorted({person for person, _ in pairs}))
    clothes = tuple(sorted(set(pairs)))
    cameras = sorted({row.camera for _, row in kept})
    items = TrainingItems.cut(
        store,
        np.array([number for number, _ in kept]),
        _positions([person for person, _ in pairs], persons),
        _positions(pairs, clothes),
        _positions([row.camera for _, row in kept], cameras),
        piece,
    )
    owner_N = _positions([person for person, _ in clothes], persons)
    held_out_rows = tuple(number for number, row in rows if row.person in held_out)
    return TrainingSplit(items, persons, clothes, owner_N, held_out_rows)


def _guessed_outfits(
    store: ShardFolder, kept: Sequence[tuple[int, ShardRow]], distance: float, threads: int
) -> list[str | None]:
    rows_of_person: defaultdict[str, list[int]] = defaultdict(list)
    for number, row in kept:
        rows_of_person[str(row.person)].append(number)
    guessed = guess_outfits(store, rows_of_person, distance=distance, threads=threads)
    return [guessed[number] for number, _ in kept]


def _held_out_persons(rows: Sequence[ShardRow], train: TrainOptions) -> frozenset[str]:
    """A share of the identities, drawn with ``seed`` from those seen by two or more cameras."""
    cameras: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        cameras[str(row.person)].add(row.camera)
    seen_again = sorted(person for person, seen in cameras.items() if len(seen) > 1)
    count = round(train.held_out_share * len(cameras))
    if train.held_out_share and not 2 <= count <= len(seen_again):
        raise InputError(
            f"train.held_out_share {train.held_out_share} of {len(cameras)} training identities is {count}; it must be "
            f"at least 2 and at most {len(seen_again)}, the number of identities seen by two or more cameras"
        )
    drawn = np.random.Generator(np.random.PCG64(np.random.SeedSequence([train.seed, 1]))).permutation(seen_again)
    return frozenset(drawn[:count].tolist())


def _positions(labels: Sequence[Label], ordered: Sequence[Label]) -> Integers:
    position = {label: number for number, label in enumerate(ordered)}
    return np.array([position[label] for label in labels], np.int64)
