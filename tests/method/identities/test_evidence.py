"""Evidence: what is learnt, what relations do to it, and its file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ccvid.identities import evidence as module
from ccvid.identities.evidence import UNIT, Evidence, Relation, learn_evidence
from ccvid.identities.sightings import Sightings
from ccvid.retrieval.embedding.table import EmbeddingRows, EmbeddingTable
from data_tools.errors import InputError
from tests.method.identities.made_people import learnt, pairs_of, people, with_attributes


def test_probabilities_of_other_people_are_true() -> None:
    """Of the pairs that it calls p, a share of about p is one person."""
    evidence, table = learnt(), people(60, seed=5)
    person_N = np.array(table.rows.text("person").to_pylist())
    every = np.arange(len(person_N))
    first_P, second_P = np.triu_indices(len(every), 1)
    said_P = 1 / (1 + np.exp(-pairs_of(table, evidence).between(every, every)[first_P, second_P] / UNIT))
    true_P = person_N[first_P] == person_N[second_P]
    assert abs(said_P.sum() - true_P.sum()) < 0.35 * true_P.sum()
    assert true_P[said_P > 0.9].mean() > 0.85


def test_resemblance_counts_most_within_a_day() -> None:
    evidence = learnt()
    alike, plain, unlike = np.full(3, 0.9), np.full(3, 0.5), np.full(3, -0.2)
    relation = np.array([Relation.WITHIN_A_DAY, Relation.UNKNOWN, Relation.OTHER_DAYS], np.int8)
    within, unknown, other = evidence.log_odds(plain, alike, relation).tolist()
    assert within > unknown > other
    within, _, other = evidence.log_odds(plain, unlike, relation).tolist()
    assert within < other, "other clothes within a day speak against one person"
    assert (
        evidence.clothes_log_odds(plain, alike, relation)[0] > 0 > evidence.clothes_log_odds(plain, unlike, relation)[2]
    )


def test_the_prior_is_that_of_the_gallery() -> None:
    evidence = learnt()
    assert evidence.curves.partners == 5
    assert evidence.prior(1001) == round(UNIT * np.log(0.005 / 0.995))
    assert evidence.prior(10**6, share=0.5) == 0
    assert evidence.prior(1) == evidence.prior(2) == 0


def test_relations_of_time() -> None:
    rows = with_attributes(
        people(3, 1, 2, days=False),
        {
            "p000/o0/0": {"start_time": "2026-11-02T23:30:00.000+00:00"},
            "p000/o0/1": {"start_time": "2026-11-03T01:30:00.000+02:00", "video": "gate"},
            "p001/o0/0": {"start_time": "2026-11-04T12:00:00.000+00:00"},
            "p001/o0/1": {"video": "gate", "start_seconds": "1", "end_seconds": "2"},
            "p002/o0/0": {"video": "gate", "start_seconds": "5", "end_seconds": "6"},
        },
    ).rows
    seen = Sightings.of(rows)

    def between(one: int, other: int) -> Relation:
        return Relation(int(seen.relation(np.array([one]), np.array([other]))[0]))

    assert between(0, 1) == between(3, 4) == Relation.WITHIN_A_DAY
    assert between(0, 2) == Relation.OTHER_DAYS
    assert between(0, 3) == between(0, 5) == Relation.UNKNOWN


def test_the_file_gives_the_same() -> None:
    evidence = learnt()
    again = Evidence.from_bytes(evidence.to_bytes(), "a file")
    assert again.curves == evidence.curves
    assert np.array_equal(again.whitening_DD, evidence.whitening_DD)
    assert np.array_equal(again.mean_D, evidence.mean_D)
    with pytest.raises(InputError, match="a file: not readable"):
        Evidence.from_bytes(evidence.to_bytes()[:-8], "a file")
    for content in (b"", b"\x00" * 20, b"PK" * 100):
        with pytest.raises(InputError, match="a file"):
            Evidence.from_bytes(content, "a file")


def test_samples_of_many_pairs_give_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    table = people(40, 3, 4, seed=1)
    whole = learn_evidence(table).curves
    monkeypatch.setattr(module, "MOST_IMPOSTORS", 2000)
    some = learn_evidence(table).curves
    for one, other in ((whole.same_clothes, some.same_clothes), (whole.clothes_changing, some.clothes_changing)):
        middle = np.linspace(0.4, 0.6, 5)  # about where they cross 0
        first, second = (np.interp(middle, curve.scores, curve.log_odds) for curve in (one, other))
        assert np.allclose(first, second, atol=2.0)


def test_without_clothes_labels_all_pairs_serve() -> None:
    table = people(16)
    rows = EmbeddingRows.of([replace(row, clothes=None) for row in table.rows])
    curves = learn_evidence(EmbeddingTable(rows, table.embedding_ND, "made")).curves
    assert curves.same_clothes.genuine_pairs == curves.clothes_changing.genuine_pairs == 16 * 15


def test_too_few_people_are_refused() -> None:
    with pytest.raises(InputError, match="7 persons with labels, expected at least 8"):
        learn_evidence(people(7))
    with pytest.raises(InputError, match="no person has two tracklets"):
        learn_evidence(people(20, 1, 1))


def test_an_embedding_without_direction_is_like_no_other() -> None:
    evidence = learnt()
    mean = evidence.mean_D[None].astype(np.float32)
    assert np.isfinite(evidence.vectors(mean).whitened_ND).all()
