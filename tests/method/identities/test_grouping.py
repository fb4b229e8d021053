"""Grouping: against a loop over all pairs, whatever the order of the candidates, within what is excluded."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ccvid.identities.evidence import UNIT
from ccvid.identities.grouping import Linked, Pairs, group
from ccvid.retrieval.ranking.distances import Indices
from tests.method.identities.made_people import all_pairs, learnt, pairs_of, people, with_attributes

EVIDENCE = learnt()


def naive(pairs: Pairs, count: int, together: Linked = (), apart: Linked = ()) -> Indices:
    """The definition: all means anew after each join."""
    every = np.arange(count)
    log_odds_NN, motion_NN = pairs.between(every, every), pairs.motion(every, every)
    groups = [{place} for place in every.tolist()]
    for one, other in together:
        both = [part for part in groups if one in part or other in part]
        groups = [part for part in groups if part not in both] + [set().union(*both)]
    while True:
        best: tuple[float, int, int] | None = None
        for here, there in combinations(sorted(groups, key=min), 2):
            ways = [(min(one, other), max(one, other)) for one in here for other in there]
            first_P, second_P = np.array(ways).T
            if pairs.exclusions.excluded(first_P, second_P).any() or {*ways} & {*map(tuple, map(sorted, apart))}:
                continue
            resemblance, motion = (int(of_NN[first_P, second_P].sum()) for of_NN in (log_odds_NN, motion_NN))
            found = (-(resemblance / len(ways) + motion), min(here), min(there))
            if found[0] < 0 and (best is None or found < best):
                best = found
        if best is None:
            break
        joined = [part for part in groups if min(part) in best[1:]]
        groups = [part for part in groups if part not in joined] + [set().union(*joined)]
    group_N = np.empty(count, np.int64)
    for part in groups:
        group_N[sorted(part)] = min(part)
    return group_N


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("days", [True, False])
def test_groups_are_those_of_the_definition(seed: int, days: bool) -> None:
    table = people(5, 3, 2, noise=0.9, seed=seed, days=days)
    pairs, count = pairs_of(table, EVIDENCE), len(table.rows)
    apart = [(0, 1), (2, 20)] if seed % 2 else []
    together = [(3, 9), (9, 21)] if seed % 3 else []
    found = group(pairs, all_pairs(count), together=together, apart=apart)
    assert found.group_N.tolist() == naive(pairs, count, together, apart).tolist()


@pytest.mark.parametrize("seed", range(6))
def test_groups_of_people_who_walk_on_are_those_of_the_definition(seed: int) -> None:
    table, random = people(4, 2, 3, noise=1.2, seed=seed, days=False), np.random.default_rng(seed)
    places: dict[str, dict[str, str]] = {}
    for id in table.rows.text("id").to_pylist():
        start, box = round(float(random.uniform(0, 12)), 2), f"{random.integers(0, 300)},50,40,100"
        end = start + round(float(random.uniform(0.2, 3)), 2)
        places[id] = {"video": "gate", "start_seconds": f"{start}", "end_seconds": f"{end}"}
        places[id] |= {"first_box": box, "last_box": box}
    pairs = pairs_of(with_attributes(table, places), EVIDENCE)
    found = group(pairs, all_pairs(24))
    assert found.group_N.tolist() == naive(pairs, 24).tolist()
    assert np.any(pairs.motion(np.arange(24), np.arange(24)) > 0)


def test_only_likely_candidates_matter_and_no_order() -> None:
    table = people(8, 3, 3, noise=0.7, seed=4)
    pairs, count = pairs_of(table, EVIDENCE), len(table.rows)
    first_P, second_P = all_pairs(count)
    whole = group(pairs, (first_P, second_P))
    likely = pairs.log_odds(first_P, second_P) > 0
    mixed = np.random.default_rng(0).permutation(np.flatnonzero(likely))
    some = group(pairs, (second_P[mixed], first_P[mixed]))
    assert some.group_N.tolist() == whole.group_N.tolist()
    assert len(np.unique(whole.group_N)) < count


def test_equal_tracklets_are_one_person_and_ties_go_by_id() -> None:
    table = people(3, 1, 2, noise=0.0)
    pairs = pairs_of(table, EVIDENCE)
    assert group(pairs, all_pairs(6)).group_N.tolist() == [0, 0, 2, 2, 4, 4]
    nothing = np.empty(0, np.int64)
    assert group(pairs, (nothing, nothing)).group_N.tolist() == [0, 1, 2, 3, 4, 5]


def test_blocks_have_the_digits_of_pairs() -> None:
    table = people(6, 2, 3, seed=7)
    pairs, every = pairs_of(table, EVIDENCE), np.arange(len(table.rows))
    first_P, second_P = all_pairs(len(every))
    assert np.array_equal(pairs.between(every, every)[first_P, second_P], pairs.log_odds(first_P, second_P))
    assert np.array_equal(pairs.between(every[:5], every[5:]), pairs.between(every[5:], every[:5]).T)


def test_who_is_in_view_together_is_never_one_person() -> None:
    both = {"video": "gate", "start_seconds": "0", "end_seconds": "9"}
    table = with_attributes(people(4, 1, 2, noise=0.0), {"p000/o0/0": both, "p000/o0/1": both})
    group_N = group(pairs_of(table, EVIDENCE), all_pairs(8)).group_N
    assert group_N[0] != group_N[1]
    assert group_N[2] == group_N[3]
    decided = group(pairs_of(table, EVIDENCE), all_pairs(8), together=[(0, 1)]).group_N
    assert decided[0] == decided[1], "people know better"


def test_nobody_is_faster_than_the_least_travel_time() -> None:
    def at(second: int) -> dict[str, str]:
        time = f"2026-11-02T08:00:{second:02}.000+00:00"
        return {"start_time": time, "end_time": time}

    table = people(2, 1, 2, noise=0.0)
    near = with_attributes(table, {"p000/o0/0": at(0), "p000/o0/1": at(29), "p001/o0/0": at(0), "p001/o0/1": at(30)})
    group_N = group(pairs_of(near, EVIDENCE, {("c0", "c1"): 30.0}), all_pairs(4)).group_N
    assert group_N.tolist() == [0, 1, 2, 2]


def test_the_least_probable_join_is_that_of_the_smaller_side() -> None:
    table = people(10, 3, 2, noise=1.0, seed=5)
    pairs = pairs_of(table, EVIDENCE)
    found = group(pairs, all_pairs(60), doubtful=100.0)
    sizes = np.bincount(found.group_N)[found.group_N]
    assert np.isinf(found.least_N[sizes == 1]).all()
    assert (found.least_N[sizes > 1] > 0).all()
    weakest = {
        int(name): min(d.log_odds for d in found.doubts if d.joined and found.group_N[d.first] == name)
        for name in np.unique(found.group_N[sizes > 1])
    }
    for name, log_odds in weakest.items():
        assert round(found.least_N[found.group_N == name].min()) == log_odds
    assert np.isinf(group(pairs, all_pairs(60), together=[(0, 1)]).least_N[sizes == 1]).any()


def test_doubts_are_what_was_nearly_otherwise() -> None:
    table = people(10, 3, 2, noise=1.1, seed=5)
    pairs = pairs_of(table, EVIDENCE)
    found = group(pairs, all_pairs(len(table.rows)))
    assert found.doubts
    for doubt in found.doubts:
        one, other = found.group_N[[doubt.first, doubt.second]]
        assert (one == other) == doubt.joined
        assert abs(doubt.log_odds) <= 2 * UNIT
        if not doubt.joined:
            here, there = (np.flatnonzero(found.group_N == name) for name in (one, other))
            between = pairs.between(here, there)
            assert doubt.log_odds == round(between.sum() / between.size)
            assert between.max() == pairs.log_odds(np.array([doubt.first]), np.array([doubt.second]))[0]
