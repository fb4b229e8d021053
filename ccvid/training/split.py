"""The training and held-out tracklets of a data set, and their class labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ccvid.cluster_contrast_options import ClusterContrastOptions
from ccvid.config import Recipe, TrainOptions
from ccvid.method_choices import METHODS
from ccvid.retrieval.gallery.clusters import Presence
from ccvid.training.pseudo_identities import group_by_colours
from data_tools.colour_outfits import colour_histograms, guess_outfits
from data_tools.errors import InputError
from data_tools.loader import Integers, TrainingItems
from data_tools.shard_index import ShardRows
from data_tools.shards import ShardFolder

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
    presence: Presence | None = None
    """When each training tracklet is in view, of a split without labels."""


def split_for(recipe: Recipe, store: ShardFolder) -> TrainingSplit:
    """The split for a recipe; raises as :func:`split_training` or :func:`split_unlabelled` does."""
    method = recipe.method
    if not METHODS[method.name].labels:
        assert isinstance(method.own, ClusterContrastOptions)
        return split_unlabelled(store, method.own, piece=recipe.clip.piece, threads=recipe.loader.threads)
    return split_training(
        store,
        recipe.train,
        piece=recipe.clip.piece,
        needs_clothes=method.uses_clothes or recipe.batch.spread_outfits,
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
    number_R = np.flatnonzero(store.rows.is_in("split", ["train"]) & store.rows.is_known("person"))
    rows = store.rows.take(number_R)
    if not rows:
        raise InputError(
            f"{store.folder}: no tracklet of split 'train' has a person label, so there is nothing to train on"
        )
    is_held_out_R = rows.is_in("person", _held_out_persons(rows, train))
    number_K, kept = number_R[~is_held_out_R], rows.take(np.flatnonzero(~is_held_out_R))
    owners, cameras_of, outfits = kept.values("person"), kept.values("camera"), kept.values("clothes")
    if needs_clothes and colour_distance is not None:
        outfits = _guessed_outfits(store, number_K, owners, colour_distance, threads)
    unlabelled = [id for id, outfit in zip(kept.values("id"), outfits, strict=True) if outfit is None]
    if needs_clothes and unlabelled:
        raise InputError(
            f"{store.folder}: {len(unlabelled)} of {len(kept)} training tracklets have no clothes label (first: "
            f"{unlabelled[0]}), which CAL and batch.spread_outfits need; label them, guess outfits from colours with "
            "--method.clothes_labels colours, or train the baseline with --method.clothes_loss false"
        )
    pairs = [(str(person), outfit or "") for person, outfit in zip(owners, outfits, strict=True)]
    persons = tuple(sorted({person for person, _ in pairs}))
    clothes = tuple(sorted(set(pairs)))
    items = TrainingItems.cut(
        kept.frame_count_N,
        number_K,
        _positions([person for person, _ in pairs], persons),
        _positions(pairs, clothes),
        _positions(cameras_of, sorted(set(cameras_of))),
        piece,
    )
    owner_N = _positions([person for person, _ in clothes], persons)
    return TrainingSplit(items, persons, clothes, owner_N, tuple(number_R[is_held_out_R].tolist()))


def split_unlabelled(
    store: ShardFolder, options: ClusterContrastOptions, *, piece: int, threads: int = 2
) -> TrainingSplit:
    """The tracklets of split ``train``, or of a set without any those without a person, each a person of its own.

    Person and clothes labels are not read: a clothes class is a group of tracklets with the same colours. Nothing is
    held out, for without labels nothing could be scored.

    Args:
        piece, threads: as for :func:`split_training`.

    Raises:
        InputError: there is nothing to train on, or all clothes look the same.
    """
    number_N = np.flatnonzero(store.rows.is_in("split", ["train"]))
    if not len(number_N):
        number_N = np.flatnonzero(~store.rows.is_known("person"))
    if len(number_N) < 2:
        raise InputError(
            f"{store.folder}: {len(number_N)} tracklets are of split 'train' or, in a set without, have no person; "
            "expected at least 2 to learn from without labels"
        )
    rows = store.rows.take(number_N)
    presence, cameras, own_N = Presence.of(rows), rows.values("camera"), np.arange(len(rows))
    camera_N = _positions(cameras, sorted(set(cameras)))
    colours_ND = colour_histograms(store, number_N.tolist(), threads=threads)
    outfit_N = group_by_colours(colours_ND, camera_N, presence, options)
    items = TrainingItems.cut(rows.frame_count_N, number_N, own_N, outfit_N, camera_N, piece)
    outfits = tuple(("", str(number)) for number in range(outfit_N.max() + 1))
    return TrainingSplit(items, tuple(rows.values("id")), outfits, np.zeros(len(outfits), np.int64), (), presence)


def _guessed_outfits(
    store: ShardFolder, number_K: Integers, owners: Sequence[str], distance: float, threads: int
) -> list[str | None]:
    rows_of_person: defaultdict[str, list[int]] = defaultdict(list)
    for number, person in zip(number_K.tolist(), owners, strict=True):
        rows_of_person[person].append(number)
    guessed = guess_outfits(store, rows_of_person, distance=distance, threads=threads)
    return [guessed[number] for number in number_K.tolist()]


def _held_out_persons(rows: ShardRows, train: TrainOptions) -> frozenset[str]:
    """A share of the identities, drawn with ``seed`` from those seen by two or more cameras."""
    cameras: defaultdict[str, set[str]] = defaultdict(set)
    for person, camera in zip(rows.values("person"), rows.values("camera"), strict=True):
        cameras[person].add(camera)
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
