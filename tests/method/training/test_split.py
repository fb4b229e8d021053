"""The training split: given labels, guessed labels, no labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ccvid.config import Recipe
from ccvid.training.context import LocalRun
from ccvid.training.split import split_for
from ccvid.training.trainer import Trainer
from data_tools.errors import InputError
from data_tools.shard_index import ShardRows
from data_tools.shards import ShardFolder
from tests.method.training.test_training import tiny_recipe


def changed(recipe: Recipe, section: str, **values: object) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=values)})


@pytest.fixture
def unlabelled(tiny_shards: Path) -> ShardFolder:
    """The tiny walkers, without clothes labels for the training persons."""
    store = ShardFolder(tiny_shards)
    store.rows = ShardRows.of(replace(row, clothes=None) if row.split == "train" else row for row in store.rows)
    return store


def test_guessed_outfits_replace_the_labels_of_training_persons_alone(tiny_shards: Path) -> None:
    store, recipe = ShardFolder(tiny_shards), tiny_recipe(tiny_shards, held_out_share=0.34)
    before = store.rows[:]
    given = split_for(recipe, store)
    guessed = split_for(changed(recipe, "method", clothes_labels="colours"), store)
    assert store.rows == before
    assert (guessed.persons, guessed.held_out_rows) == (given.persons, given.held_out_rows)
    np.testing.assert_array_equal(guessed.items.row_I, given.items.row_I)
    np.testing.assert_array_equal(guessed.items.person_I, given.items.person_I)
    assert {label.rstrip("0123456789") for _, label in guessed.clothes} == {"colour"}
    assert list(guessed.clothes) == sorted(set(guessed.clothes))
    np.testing.assert_array_equal(guessed.owner_N[guessed.items.clothes_I], guessed.items.person_I)
    again = split_for(changed(recipe, "method", clothes_labels="colours"), ShardFolder(tiny_shards))
    np.testing.assert_array_equal(again.items.clothes_I, guessed.items.clothes_I)
    one = split_for(changed(recipe, "method", clothes_labels="colours", colour_distance=0.99), store)
    assert {label for _, label in one.clothes} == {"colour0"}


def test_the_baseline_guesses_nothing(tiny_shards: Path, unlabelled: ShardFolder) -> None:
    recipe = changed(tiny_recipe(tiny_shards), "method", clothes_loss=False, clothes_labels="colours")
    split = split_for(recipe, unlabelled)
    assert {label for _, label in split.clothes} == {""}


@pytest.mark.parametrize("section", ["method", "batch"])
def test_missing_labels_are_an_error_that_names_the_ways_out(
    tiny_shards: Path, unlabelled: ShardFolder, section: str
) -> None:
    recipe = tiny_recipe(tiny_shards)
    if section == "batch":
        recipe = changed(changed(recipe, "method", clothes_loss=False), "batch", spread_outfits=True)
    with pytest.raises(InputError, match="24 of 24 training tracklets have no clothes label") as error:
        split_for(recipe, unlabelled)
    for flag in ("--method.clothes_labels colours", "--method.clothes_loss false"):
        assert flag in str(error.value)


def test_cal_trains_without_any_clothes_labels(tiny_shards: Path, unlabelled: ShardFolder, tmp_path: Path) -> None:
    recipe = changed(tiny_recipe(tiny_shards, epochs=2), "method", clothes_labels="colours", start_epoch=0)
    trainer = Trainer(changed(recipe, "batch", spread_outfits=True), unlabelled, LocalRun(tmp_path))
    assert outfits_in_groups(trainer) == {2}
    trainer.fit()
    assert "adversarial_loss" in (tmp_path / "steps.jsonl").read_text()


def test_given_outfits_are_spread_over_every_group(tiny_shards: Path, tmp_path: Path) -> None:
    store, recipe = ShardFolder(tiny_shards), tiny_recipe(tiny_shards)
    spread = Trainer(changed(recipe, "batch", spread_outfits=True), store, LocalRun(tmp_path / "spread"))
    assert outfits_in_groups(spread) == {2}
    assert outfits_in_groups(Trainer(recipe, store, LocalRun(tmp_path / "plain"))) == {1, 2}


def outfits_in_groups(trainer: Trainer) -> set[int]:
    """Numbers of outfits in an identity's pairs of clips, over some epochs."""
    counts: set[int] = set()
    for epoch in range(4):
        groups: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = list(
            trainer.split.items.clothes_I[trainer.sampler.schedule(epoch, 0).item_SB].reshape(-1, 2)
        )
        counts |= {len(set(group.tolist())) for group in groups}
    return counts
