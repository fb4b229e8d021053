"""What places say: who walks on, and parts of one track."""

from __future__ import annotations

import numpy as np
import pytest

from ccvid.identities.corrections import Corrections
from ccvid.identities.identify import identify
from ccvid.identities.sightings import Sightings
from ccvid.retrieval.embedding.table import EmbeddingTable
from tests.method.identities.made_people import learnt, pairs_of, people, with_attributes

EVIDENCE = learnt()
NOTHING = np.empty(0, np.int64)


def placed(places: list[tuple[str, float, float, str, str]], tracks: list[str] | None = None) -> EmbeddingTable:
    """Alike tracklets: video, start, end, first and last box of each."""
    table = people(len(places), 1, 1, noise=0.0, days=False)
    names = ("video", "start_seconds", "end_seconds", "first_box", "last_box")
    ids = table.rows.text("id").to_pylist()
    attributes = {id: dict(zip(names, map(str, place), strict=True)) for id, place in zip(ids, places, strict=True)}
    for id, track in zip(ids, tracks or [], strict=bool(tracks)):
        attributes[id]["track"] = track
    return with_attributes(table, attributes)


BOX = "100,50,40,100"


@pytest.mark.parametrize(
    ("later", "least", "most"),
    [
        (("gate", 1.04, 2.0, BOX, BOX), 2.0, 6.0),
        (("gate", 1.04, 2.0, "110,52,40,100", BOX), 2.0, 6.0),
        (("gate", 2.0, 3.0, "160,50,40,100", BOX), 0.0, 3.0),
        (("gate", 1.04, 2.0, "300,50,40,100", BOX), -2.5, -2.0),
        (("gate", 1.04, 2.0, "100,50,20,50", BOX), -2.5, -1.0),
        (("gate", 9.0, 10.0, BOX, BOX), 0.0, 0.0),
        (("yard", 1.04, 2.0, BOX, BOX), 0.0, 0.0),
        (("gate", 0.5, 2.0, BOX, BOX), 0.0, 0.0),
        (("gate", 1.04, 2.0, "", ""), 0.0, 0.0),
        (("gate", 1.04, 2.0, "100,50,0,nan", BOX), 0.0, 0.0),
    ],
)
def test_who_does_not_jump_walks_on(later: tuple[str, float, float, str, str], least: float, most: float) -> None:
    seen = Sightings.of(placed([("gate", 0.0, 1.0, BOX, BOX), later]).rows)
    there, back = (float(seen.motion(np.array([one]), np.array([1 - one]))[0]) for one in (0, 1))
    assert there == back
    assert least <= there <= most


def test_all_that_follow_soon_are_candidates() -> None:
    random = np.random.default_rng(0)
    places = []
    for _ in range(60):
        start = round(float(random.uniform(0, 30)), 2)
        places.append((str(random.integers(3)), start, start + round(float(random.uniform(0, 5)), 2), BOX, BOX))
    seen = Sightings.of(placed(places).rows)
    found = set(zip(*(side.tolist() for side in seen.consecutive()), strict=True))
    naive = {
        (one, other)
        for one in range(60)
        for other in range(60)
        if places[one][0] == places[other][0] and 0 < places[other][1] - places[one][2] <= 2.0
    }
    assert found == naive


def test_parts_of_one_track_are_one_person_unless_people_part_them() -> None:
    table = placed([("gate", at, at + 1.0, "", "") for at in (0.0, 10.0, 20.0)], ["7", "7", "8"])
    ids = table.rows.text("id").to_pylist()
    pairs = pairs_of(table, EVIDENCE)
    found, _ = identify(ids, pairs, (NOTHING, NOTHING), Corrections(), known={})
    assert found.group_R.tolist() == [0, 0, 2]
    decided = Corrections().with_rows([("different", ids[0], ids[2], "f:1"), ("same", ids[1], ids[2], "f:2")])
    parted, _ = identify(ids, pairs, (NOTHING, NOTHING), decided, known={})
    assert parted.group_R.tolist() == [0, 1, 1]


def test_a_known_person_whom_decisions_contradict_is_grouped_anew() -> None:
    table = people(3, 1, 1, noise=0.0)
    ids = table.rows.text("id").to_pylist()
    decided = Corrections().with_rows([("different", ids[0], ids[2], "f:1"), ("same", ids[1], ids[2], "f:2")])
    found, _ = identify(ids, pairs_of(table, EVIDENCE), (NOTHING, NOTHING), decided, known={ids[0]: 4, ids[1]: 4})
    assert found.group_R.tolist() == [0, 1, 1]
