from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.errors import InputError
from data_tools.identity_sampler import Integers, PkOptions, PkSampler


def persons_with(*items: int) -> Integers:
    """Labels of persons with that many items each, in a shuffled order."""
    labels = np.repeat(np.arange(len(items)) * 7 + 3, items)
    return np.random.default_rng(len(labels)).permutation(labels)


@st.composite
def samplers(draw: st.DrawFn) -> tuple[PkSampler, Integers, PkOptions, int]:
    pk = PkOptions(identities=draw(st.integers(1, 5)), clips=draw(st.integers(1, 5)))
    world_size = draw(st.integers(1, 4))
    need = pk.identities * world_size
    person = persons_with(*draw(st.lists(st.integers(1, 40), min_size=need, max_size=need + 12)))
    return PkSampler(person, pk, world_size=world_size, seed=draw(st.integers(0, 99))), person, pk, world_size


@st.composite
def outfit_samplers(draw: st.DrawFn) -> tuple[PkSampler, Integers, Integers, PkOptions, int]:
    pk = PkOptions(identities=draw(st.integers(1, 4)), clips=draw(st.integers(1, 5)), spread_outfits=True)
    world_size = draw(st.integers(1, 3))
    need = pk.identities * world_size
    sizes = draw(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=need, max_size=need + 8))
    clothes = np.repeat(np.arange(sum(map(len, sizes))), np.concatenate(sizes))
    owner = np.repeat(np.arange(len(sizes)), [len(own) for own in sizes])
    clothes = np.random.default_rng(len(clothes)).permutation(clothes)
    seed = draw(st.integers(0, 99))
    person = owner[clothes]
    return PkSampler(person, pk, world_size=world_size, seed=seed, clothes_I=clothes), person, clothes, pk, world_size


def items_of(sampler: PkSampler, world_size: int, epoch: int) -> Integers:
    """The global schedule, (steps, world size · P · K)."""
    return np.concatenate([sampler.schedule(epoch, rank).item_SB for rank in range(world_size)], axis=1)


@given(samplers(), st.integers(0, 50))
def test_a_global_batch_has_distinct_identities_with_k_clips_each(
    made: tuple[PkSampler, Integers, PkOptions, int], epoch: int
) -> None:
    sampler, person, pk, world_size = made
    for rank in range(world_size):
        schedule = sampler.schedule(epoch, rank)
        shape = (sampler.steps_per_epoch, pk.identities * pk.clips)
        assert schedule.item_SB.shape == schedule.clip_seed_SB.shape == shape
        assert len(schedule) == sampler.steps_per_epoch >= 1
    for batch in person[items_of(sampler, world_size, epoch)]:
        groups = batch.reshape(-1, pk.clips)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0].tolist())) == pk.identities * world_size


@given(samplers())
def test_items_are_used_evenly(made: tuple[PkSampler, Integers, PkOptions, int]) -> None:
    """An item is repeated only if its identity has fewer than K unused ones."""
    sampler, person, pk, world_size = made
    used = np.zeros(len(person), np.int64)
    for item_B in items_of(sampler, world_size, epoch=0):
        for group in item_B.reshape(-1, pk.clips):
            own = np.flatnonzero(person == person[group[0]])
            rounds = used[own].min()
            if (used[own] == rounds).sum() < pk.clips <= len(own):
                used[own] = rounds = used[own].max()  # the few remaining ones are dropped
            copies = np.bincount(np.searchsorted(own, group), minlength=len(own))
            if len(own) >= pk.clips:
                assert copies.max() == 1
                assert (used[group] == rounds).all()
            else:
                assert copies.max() - copies.min() <= 1
            used[group] += 1


@given(samplers())
def test_two_workers_see_together_what_one_sees(made: tuple[PkSampler, Integers, PkOptions, int]) -> None:
    sampler, person, pk, world_size = made
    alone_pk = PkOptions(identities=pk.identities * world_size, clips=pk.clips)
    alone = PkSampler(person, alone_pk, world_size=1, seed=sampler._seed).schedule(epoch=3, rank=0)
    np.testing.assert_array_equal(items_of(sampler, world_size, epoch=3), alone.item_SB)
    seeds = [sampler.schedule(3, rank).clip_seed_SB for rank in range(world_size)]
    np.testing.assert_array_equal(np.concatenate(seeds, axis=1), alone.clip_seed_SB)


def test_an_epoch_has_the_released_length() -> None:
    # Groups of K = 4: 1 + 1 + 2 + 3 + 5 = 12; identities in a global batch: 2.
    sampler = PkSampler(persons_with(2, 7, 8, 13, 20), PkOptions(identities=1, clips=4), world_size=2, seed=0)
    assert sampler.steps_per_epoch == 6


def test_without_repetition_every_whole_group_is_dealt_once() -> None:
    sampler = PkSampler(persons_with(*[12] * 10), PkOptions(identities=5, clips=3), world_size=2, seed=1)
    assert sampler.steps_per_epoch == 4
    assert sorted(items_of(sampler, 2, epoch=0).ravel().tolist()) == list(range(120))


def test_one_person_with_most_items_is_in_every_batch_and_the_others_fill_up() -> None:
    person = persons_with(100, 2, 2, 2)
    sampler = PkSampler(person, PkOptions(identities=2, clips=2), world_size=1, seed=0)
    batches = person[items_of(sampler, 1, epoch=0)][:, ::2]
    assert sampler.steps_per_epoch == 26
    assert (batches == 3).sum() == 26
    assert {int((batches == other).sum()) for other in (10, 17, 24)} <= {8, 9}


def test_epochs_seeds_and_places_differ_and_repeat() -> None:
    person, pk = persons_with(*[9] * 12), PkOptions(identities=3, clips=2)
    one, other = (PkSampler(person, pk, world_size=2, seed=seed) for seed in (5, 6))
    first = one.schedule(0, 1)
    again = PkSampler(person, pk, world_size=2, seed=5).schedule(0, 1)
    np.testing.assert_array_equal(first.item_SB, again.item_SB)
    np.testing.assert_array_equal(first.clip_seed_SB, again.clip_seed_SB)
    for different in (one.schedule(1, 1), other.schedule(0, 1), one.schedule(0, 0)):
        assert (first.item_SB != different.item_SB).any()
        assert not set(first.clip_seed_SB.ravel().tolist()) & set(different.clip_seed_SB.ravel().tolist())


def test_the_global_generators_are_left_alone() -> None:
    np.random.seed(3)
    expected = np.random.random(3)
    np.random.seed(3)
    PkSampler(persons_with(*[9] * 12), PkOptions(), world_size=2, seed=5).schedule(0, 0)
    np.testing.assert_array_equal(np.random.random(3), expected)


@pytest.mark.parametrize(
    ("persons", "world_size", "remedy"),
    [
        (7, 2, "; lower the number of workers to 1 or lower the identities per worker to 3"),
        (3, 2, "; lower the identities per worker to 1"),
        (4, 5, "; lower the number of workers to 1"),
        (3, 4, "; lower both the number of workers and the identities per worker"),
    ],
)
def test_too_few_identities_are_refused_with_the_numbers(persons: int, world_size: int, remedy: str) -> None:
    with pytest.raises(InputError, match=f"items have {persons}, but") as error:
        PkSampler(persons_with(*[9] * persons), PkOptions(identities=4), world_size=world_size, seed=0)
    assert f"need {4 * world_size} distinct ones" in str(error.value)
    assert str(error.value).endswith(remedy)


def test_without_outfits_the_schedule_is_that_of_the_first_release() -> None:
    """Digests recorded before outfits could be spread; clothes labels alone must change nothing."""
    expected = {
        ((12,) * 10, 5, 3, 2): "2cfb0157953e7b15",
        ((2, 7, 8, 13, 20, 1, 30), 2, 4, 2): "54d6c7134f1bdaa6",
        ((100, 2, 2, 2), 2, 2, 1): "c1f00463f0f3ae8f",
    }
    for (items, identities, clips, world_size), digest in expected.items():
        person = persons_with(*items)
        pk = PkOptions(identities=identities, clips=clips)
        sampler = PkSampler(person, pk, world_size=world_size, seed=4, clothes_I=np.arange(len(person)))
        found = hashlib.sha256()
        for rank in range(world_size):
            schedule = sampler.schedule(3, rank)
            for values in (schedule.item_SB, schedule.clip_seed_SB):
                found.update(values.astype("<i8").tobytes())
        assert found.hexdigest()[:16] == digest


@given(outfit_samplers(), st.integers(0, 20))
def test_spread_every_group_holds_two_outfits_where_its_identity_has_two(
    made: tuple[PkSampler, Integers, Integers, PkOptions, int], epoch: int
) -> None:
    sampler, person, clothes, pk, world_size = made
    plain = PkSampler(person, pk.model_copy(update={"spread_outfits": False}), world_size=world_size, seed=3)
    assert sampler.steps_per_epoch == plain.steps_per_epoch
    for item_B in items_of(sampler, world_size, epoch):
        groups = item_B.reshape(-1, pk.clips)
        assert (person[groups] == person[groups[:, :1]]).all()
        assert len(set(person[groups[:, 0]].tolist())) == pk.identities * world_size
        for group in groups:
            outfits = len(np.unique(clothes[person == person[group[0]]]))
            assert len(np.unique(clothes[group])) >= min(2, outfits, pk.clips)


@given(outfit_samplers())
def test_spread_two_workers_see_together_what_one_sees(
    made: tuple[PkSampler, Integers, Integers, PkOptions, int],
) -> None:
    sampler, person, clothes, pk, world_size = made
    alone_pk = pk.model_copy(update={"identities": pk.identities * world_size})
    alone = PkSampler(person, alone_pk, world_size=1, seed=sampler._seed, clothes_I=clothes).schedule(4, 0)
    np.testing.assert_array_equal(items_of(sampler, world_size, epoch=4), alone.item_SB)


@given(st.lists(st.integers(1, 15), min_size=2, max_size=6), st.integers(2, 6), st.integers(0, 9))
def test_spread_items_and_outfits_are_used_evenly(sizes: list[int], clips: int, seed: int) -> None:
    """One person, whose every group comes once: what is repeated, what is dropped, what a group holds."""
    clothes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    pk = PkOptions(identities=1, clips=clips, spread_outfits=True)
    sampler = PkSampler(np.zeros_like(clothes), pk, world_size=1, seed=seed, clothes_I=clothes)
    groups = sampler.schedule(0, 0).item_SB
    assert len(groups) == max(1, len(clothes) // clips)
    copies = np.bincount(groups.ravel(), minlength=len(clothes))
    is_largest = clothes == np.argmax(sizes)
    others = np.count_nonzero(~is_largest)
    if len(clothes) < clips:
        assert copies.max() - copies.min() <= 1
    elif others >= len(groups):
        assert copies.max() == 1
        held = np.array([np.bincount(clothes[group], minlength=len(sizes)) for group in groups])
        assert (held.max(0) - held.min(0) <= 1).all()
        kept = held.sum(0)
        assert all(kept[outfit] >= kept.max() - 1 for outfit in clothes[copies == 0])
    else:  # the few items of other outfits take turns, one per group
        assert copies[~is_largest].sum() == len(groups)
        assert copies[~is_largest].max() - copies[~is_largest].min() <= 1
        assert copies[is_largest].max() <= 1


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_an_epoch_of_given_length_fills_every_place_with_distinct_identities(steps: int) -> None:
    """Shorter and longer than the released four, of identities with one item and with many."""
    person_I = np.repeat(np.arange(6), [1, 1, 2, 2, 9, 3])
    options = PkOptions(identities=2, clips=2)
    assert PkSampler(person_I, options, world_size=1, seed=4).steps_per_epoch == 4
    sampler = PkSampler(person_I, options, world_size=1, seed=4, steps=steps)
    schedule = sampler.schedule(0, 0)
    assert schedule.item_SB.shape == (steps, 4)
    persons_S22 = person_I[schedule.item_SB].reshape(steps, 2, 2)
    assert (persons_S22[:, :, 0] == persons_S22[:, :, 1]).all()
    assert (persons_S22[:, 0, 0] != persons_S22[:, 1, 0]).all()
