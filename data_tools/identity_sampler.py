"""PK sampling: batches of P identities with K clips each; one schedule for all ranks from (seed, epoch).

How an epoch is dealt, identically on every rank:

1. Each identity's items are shuffled and cut into groups of K, or dealt to the groups outfit by outfit.
2. Each identity gets a number of places: as many as it has groups, but at most one per batch.
3. Batch by batch, identities are drawn with probability proportional to the places they have left. The identities
   of a *global* batch (over all ranks) are distinct.
4. Rank r takes the r-th run of P identities of each global batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data_tools.errors import InputError
from data_tools.options import Options, Rare

Integers = NDArray[np.int64]


class PkOptions(Options):
    """The make-up of one worker's batch: identities × clips of each."""

    identities: int = Field(default=4, ge=1)
    """P: identities in the batch of a worker."""
    clips: int = Field(default=4, ge=1)
    """K: clips of each identity. An identity with fewer items repeats some."""
    spread_outfits: Annotated[bool, Rare()] = False
    """Take the clips of an identity from as many of its outfits as possible, at least two where it has two."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One rank's batches of one epoch.

    ``item_SB`` and ``clip_seed_SB`` are int64, (steps, P·K): the item of each place and the seed of its random clip
    and augmentation, so that a sample depends only on (seed, epoch, place in the global schedule). The K clips of an
    identity are adjacent.
    """

    item_SB: Integers
    clip_seed_SB: Integers

    def __len__(self) -> int:
        return len(self.item_SB)


class PkSampler:
    """Schedules of PK batches over labelled items.

    The global schedule depends on the labels, the seed, the epoch, K and P × ``world_size``: two workers with P = 4
    together see what one with P = 8 sees. An epoch has the released length on every rank,
    ⌊groups / (P × ``world_size``)⌋ steps; an identity has ⌊items / K⌋ groups, at least one.

    An item repeats within an epoch in two cases only. An identity with fewer than K items repeats them in turn within
    its group. And if some identities have more groups than there are batches, their surplus places go evenly to the
    other identities, whose items are dealt again once fewer than K are unused.

    With ``options.spread_outfits``, every group of an identity with two or more outfits has at least two of them
    (K ≥ 2), and the groups of a round differ by at most one in their clips of any outfit. Lengths and places do not
    change. Two things do: the items that a round leaves out (fewer than K) are from the identity's largest outfits;
    and if all other outfits together have fewer items than there are groups, their items repeat in turn, each in
    place of an item of the largest outfit.

    Args:
        person_I: person class of each item.
        clothes_I: clothes class of each item, for ``options.spread_outfits``.
        steps: length of an epoch, for classes that change between epochs; default: the released length.

    Raises:
        InputError: there are fewer identities than P × ``world_size``.
    """

    def __init__(
        self,
        person_I: Integers,
        options: PkOptions,
        *,
        world_size: int,
        seed: int,
        clothes_I: Integers | None = None,
        steps: int | None = None,
    ) -> None:
        assert person_I.ndim == 1, f"{person_I.shape=}"
        assert min(world_size - 1, seed) >= 0, f"{world_size=} {seed=}"
        assert clothes_I is None or clothes_I.shape == person_I.shape, f"{person_I.shape=} {clothes_I=}"
        assert clothes_I is not None or not options.spread_outfits, "spread_outfits needs clothes_I"
        self._clothes_I = clothes_I if options.spread_outfits and options.clips > 1 else None
        order = np.argsort(person_I, kind="stable")
        persons, starts = np.unique(person_I[order], return_index=True)
        self._items = np.split(order, starts[1:])
        self._options = options
        self._seed = seed
        self._world_size = world_size
        self._global_identities = options.identities * world_size
        if len(persons) < self._global_identities:
            raise InputError(_too_few_identities(len(persons), options.identities, world_size))
        self._groups: Integers = np.array([max(1, len(items) // options.clips) for items in self._items])
        released = int(self._groups.sum()) // self._global_identities
        self.steps_per_epoch = released if steps is None else steps

    def schedule(self, epoch: int, rank: int) -> Schedule:
        """The batches of ``rank`` (0 … world size − 1) in ``epoch`` (from 0)."""
        assert 0 <= rank < self._world_size, f"{rank=} {self._world_size=}"
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, epoch])))
        places = self._places(rng)
        groups = [self._deal(items, count, rng) for items, count in zip(self._items, places, strict=True)]
        identity_SM = self._batches(places, rng)
        dealt = np.zeros(len(places), np.int64)
        item_SMK = np.empty((*identity_SM.shape, self._options.clips), np.int64)
        for step, identities in enumerate(identity_SM):
            item_SMK[step] = [groups[identity][dealt[identity]] for identity in identities]
            dealt[identities] += 1
        item_SB = item_SMK.reshape(len(item_SMK), -1)
        clip_seed_SB = rng.integers(2**63, size=item_SB.shape)
        size = self._options.identities * self._options.clips
        own = slice(rank * size, (rank + 1) * size)
        return Schedule(item_SB[:, own], clip_seed_SB[:, own])

    def _places(self, rng: np.random.Generator) -> Integers:
        """How many batches each identity is in: at most one place per batch, and all places are filled."""
        steps = self.steps_per_epoch
        places: Integers = np.minimum(self._groups, steps)
        total = steps * self._global_identities
        if places.sum() > total:
            places[:] = rng.multivariate_hypergeometric(places, total)
        while missing := total - int(places.sum()):
            places[rng.permutation(np.flatnonzero(places < steps))[:missing]] += 1
        return places

    def _deal(self, items: Integers, count: int, rng: np.random.Generator) -> Integers:
        """Groups of K items, (count, K), dealt in rounds; a round repeats items only if there are fewer than K."""
        clips = self._options.clips
        per_round = max(1, len(items) // clips)
        rounds = -(-count // per_round)
        dealt = [self._deal_round(rng.permutation(items), per_round, rng) for _ in range(rounds)]
        return np.concatenate([np.empty((0, clips), np.int64), *dealt])[:count]

    def _deal_round(self, items: Integers, groups: int, rng: np.random.Generator) -> Integers:
        if self._clothes_I is not None:
            clothes = self._clothes_I[items]
            if (clothes != clothes[0]).any():
                return items[_spread_outfits(clothes, groups, self._options.clips, rng)]
        return np.resize(items, (groups, self._options.clips))

    def _batches(self, places: Integers, rng: np.random.Generator) -> Integers:
        """The identities of each global batch, (steps, P × world size), distinct within a batch."""
        left = places.copy()
        batches = np.empty((self.steps_per_epoch, self._global_identities), np.int64)
        for step in range(self.steps_per_epoch):
            # The earliest of exponential clocks with rates `left`: a draw without replacement, weighted by `left`.
            arrival = np.full(len(left), np.inf)
            np.divide(rng.standard_exponential(len(left)), left, out=arrival, where=left > 0)
            arrival[left == self.steps_per_epoch - step] = 0  # needed in every remaining batch
            batches[step] = rng.permutation(np.argsort(arrival, kind="stable")[: self._global_identities])
            left[batches[step]] -= 1
        assert not left.any()
        return batches


def _spread_outfits(clothes_N: Integers, groups: int, clips: int, rng: np.random.Generator) -> Integers:
    """Positions in ``clothes_N`` (at least two outfits, in random order) of each group's items: (groups, clips)."""
    _, outfit_N, size = np.unique(clothes_N, return_inverse=True, return_counts=True)
    by_outfit = np.argsort(outfit_N, kind="stable")
    number_N = np.empty_like(by_outfit)  # each item's index within its outfit
    number_N[by_outfit] = np.arange(len(by_outfit)) - np.repeat(np.cumsum(size) - size, size)
    kept = np.resize(np.argsort(number_N, kind="stable"), groups * clips)
    # Deal like cards, one per group in turn, outfit by outfit. The largest outfit comes last, so that the others reach
    # as many groups as possible.
    turn, largest = rng.permutation(len(size)), size.argmax()
    turn[largest] = len(size)
    dealt = kept[np.argsort(turn[outfit_N[kept]], kind="stable")].reshape(clips, groups).T
    others = dealt[outfit_N[dealt] != largest]
    if len(others) < groups:
        dealt[len(others) :, 0] = np.resize(rng.permutation(others), groups - len(others))
    return rng.permutation(dealt)


def _too_few_identities(found: int, per_worker: int, world_size: int) -> str:
    ways = [f"lower the number of workers to {found // per_worker}"] if found >= per_worker else []
    if found >= world_size:
        ways.append(f"lower the identities per worker to {found // world_size}")
    remedy = " or ".join(ways) or "lower both the number of workers and the identities per worker"
    return (
        f"too few identities: the training items have {found}, but {world_size} workers with "
        f"{per_worker} identities each need {per_worker * world_size} distinct ones per batch; {remedy}"
    )
