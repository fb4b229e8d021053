"""CMC, mAP and mINP equal the released numbers and plain loops, for any blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import reduce
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ccvid.retrieval.ranking import ranks
from ccvid.retrieval.ranking.distances import (
    CosineDistances,
    DistanceBlock,
    DistanceMatrix,
    Floats,
    GalleryPart,
    Indices,
    LocalDistances,
    Result,
)
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import Evaluation, evaluate
from ccvid.retrieval.ranking.protocols import PROTOCOLS, Protocol
from ccvid.retrieval.report.tables import metrics_table, write_query_table
from data_tools.errors import InputError
from tests.method.retrieval_oracle import loop_over_queries, mean, takes_part

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "retrieval_metrics.npz")
OWN = (
    Protocol("two_cameras", differ=("camera",), within={"camera": ("a", "b")}),
    Protocol("known_scale", agree=("clothes",), differ=(), within={"scale": ("a", "b"), "camera": ("b", "c")}),
)


def made_labels(prefix: str, person: object, camera: object, clothes: object) -> RetrievalLabels:
    persons, cameras, outfits = (tuple(map(str, np.asarray(c).tolist())) for c in (person, camera, clothes))
    return RetrievalLabels(tuple(f"{prefix}{row}" for row in range(len(persons))), persons, cameras, outfits)


def random_problem(queries: int, gallery: int, persons: int) -> tuple[RetrievalLabels, RetrievalLabels]:
    random = np.random.default_rng(3)
    return tuple(  # type: ignore[return-value]
        made_labels(prefix, *(random.integers(0, most, size) for most in (persons, 3, 3)))
        for prefix, size in (("q", queries), ("g", gallery))
    )


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("protocol", ["general", "same_clothes", "clothes_changing"])
def test_equals_the_released_numbers(number: int, protocol: str) -> None:
    query, gallery = (
        made_labels(side, *(REFERENCE[f"{number}.{side}_{name}"] for name in ("person", "camera", "clothes")))
        for side in ("query", "gallery")
    )
    result = evaluate(DistanceMatrix(REFERENCE[f"{number}.distance"]), query, gallery).results[protocol]
    assert result.mean_average_precision == pytest.approx(REFERENCE[f"{number}.{protocol}.map"], rel=1e-14)
    np.testing.assert_allclose(result.cmc_curve(20), REFERENCE[f"{number}.{protocol}.cmc"], rtol=1e-15)


@dataclass
class CutMatrix(LocalDistances):
    """A matrix in uneven blocks, the last first; with ``parts``, of a gallery in parts with arbitrary entries."""

    matrix: npt.NDArray[np.float64]
    query_cuts: list[int]
    gallery_cuts: list[int]
    parts: tuple[int, ...] = ()
    """Of each entry, by its index; repeated where there are more entries."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape[0], self.matrix.shape[1]

    def pairs(self, query_P: Indices, gallery_P: Indices) -> Floats:
        return self.matrix[query_P, gallery_P]

    def blocks(self) -> Iterator[DistanceBlock]:
        for top, bottom in reversed(_spans(self.query_cuts, self.shape[0])):
            for left, right in reversed(_spans(self.gallery_cuts, self.shape[1])):
                yield DistanceBlock(top, left, self.matrix[top:bottom, left:right])

    def take(self, query_rows: Indices, gallery_rows: Indices) -> CutMatrix:
        return CutMatrix(self.matrix[query_rows][:, gallery_rows], self.query_cuts, self.gallery_cuts, self.parts)

    def fold(self, work: Callable[[GalleryPart], Result], merge: Callable[[Result, Result], Result]) -> Result:
        part_N = np.resize(np.array(self.parts or (0,)), self.shape[1])
        every = np.arange(self.shape[0])
        entries = [np.flatnonzero(part_N == number) for number in dict.fromkeys(part_N.tolist())]
        return reduce(merge, [work(GalleryPart(self.take(every, entry_N), entry_N)) for entry_N in entries])


def _spans(cuts: list[int], size: int) -> list[tuple[int, int]]:
    return list(pairwise(sorted({0, size, *(cut for cut in cuts if cut < size)})))


@st.composite
def problems(draw: st.DrawFn) -> tuple[CutMatrix, RetrievalLabels, RetrievalLabels]:
    """Few persons, few distinct distances (ties), unknown clothes and scales, tracklets in both sets."""
    sides = []
    for prefix in "qg":
        size = draw(st.integers(1, 12))
        column = st.lists(st.sampled_from("abc"), min_size=size, max_size=size).map(tuple)
        partly = st.lists(st.sampled_from(["a", "b", None]), min_size=size, max_size=size).map(tuple)
        own = draw(st.lists(st.sampled_from([prefix, "both"]), min_size=size, max_size=size))
        ids = tuple(f"{kind}{row}" for row, kind in enumerate(own))
        sides.append(RetrievalLabels(ids, draw(column), draw(column), draw(partly), {"scale": draw(partly)}))
    query, gallery = sides
    values = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=len(gallery), max_size=len(gallery))
    matrix = np.array(draw(st.lists(values, min_size=len(query), max_size=len(query))))
    cuts = st.lists(st.integers(1, 11), max_size=3)
    parts = draw(st.lists(st.integers(0, 3), max_size=5))
    return CutMatrix(matrix, draw(cuts), draw(cuts), tuple(parts)), query, gallery


@settings(max_examples=300, deadline=None)
@given(problem=problems(), few_entries=st.sampled_from([0, 1, 128]), top_k=st.integers(1, 14))
def test_equals_plain_loops_to_the_last_digit(
    problem: tuple[CutMatrix, RetrievalLabels, RetrievalLabels], few_entries: int, top_k: int
) -> None:
    distances, query, gallery = problem
    protocols = {protocol.name: protocol for protocol in (*PROTOCOLS.values(), *OWN)}
    expected = {
        name: loop_over_queries(distances.matrix.tolist(), query, gallery, protocol)
        for name, protocol in protocols.items()
    }
    absent = {
        protocol.name
        for protocol in OWN
        for column, chosen in protocol.within.items()
        if not {*chosen} <= {*query.column(column), *gallery.column(column)}
    }
    scored = {name for name, figures in expected.items() if any(figures)} - absent
    with patch.object(ranks, "FEW_ENTRIES", few_entries):
        if not scored:
            with pytest.raises(InputError, match="none of the protocols can be scored"):
                evaluate(distances, query, gallery, protocols=protocols.values())
            return
        evaluation = evaluate(distances, query, gallery, protocols=protocols.values(), top_k=top_k)
    assert set(evaluation.results) == scored
    assert set(evaluation.left_out) == set(protocols) - scored
    for name, result in evaluation.results.items():
        matched = [figure for figure in expected[name] if figure]
        assert result.queries == sum(takes_part(query, row, protocols[name]) for row in range(len(query)))
        assert result.queries_without_match == result.queries - len(matched)
        assert result.mean_average_precision == mean([figure.average_precision for figure in matched])
        assert result.mean_inverse_negative_penalty == mean([figure.inverse_negative_penalty for figure in matched])
        for rank in (1, 2, 5, 20):
            assert result.cmc(rank) == sum(f.first_match_rank <= rank for f in matched) / len(matched)
        assert result.chance == pytest.approx(np.mean([len(f.matches) / len(f.ranking) for f in matched]))
        ranked = evaluation.ranked_gallery(name)
        for row, figure in enumerate(expected[name]):
            if figure is None:
                assert np.isnan(result.average_precision_Q[row])
                assert result.first_match_rank_Q[row] == 0
                if not takes_part(query, row, protocols[name]):
                    assert (ranked.gallery_QK[row] == -1).all()
                continue
            assert result.average_precision_Q[row] == figure.average_precision
            shown = [g for g in ranked.gallery_QK[row].tolist() if g >= 0]
            assert shown == figure.ranking[:top_k]
            assert ranked.is_match_QK[row, : len(shown)].tolist() == [g in figure.matches for g in shown]
            assert ranked.distance_QK[row, : len(shown)].tolist() == distances.matrix[row, shown].tolist()


def test_many_entries_of_one_person_take_the_sorted_path() -> None:
    query, gallery = random_problem(3, 600, persons=2)
    matrix = np.random.default_rng(0).integers(0, 50, (3, 600)) / 50
    assert gallery.person.count("0") > ranks.FEW_ENTRIES
    result = evaluate(DistanceMatrix(matrix), query, gallery).results["clothes_changing"]
    expected = loop_over_queries(matrix.tolist(), query, gallery, PROTOCOLS["clothes_changing"])
    assert result.average_precision_Q.tolist() == [figure and figure.average_precision for figure in expected]


def figures(evaluation: Evaluation) -> dict[str, object]:
    return {
        name: (result.to_json(), result.average_precision_Q.tolist(), result.match_distance_M.tolist())
        for name, result in evaluation.results.items()
    }


@pytest.fixture
def embedded() -> tuple[Floats, Floats, RetrievalLabels, RetrievalLabels]:
    """Float32 embeddings, some of them twice in the gallery: exact ties."""
    random = np.random.default_rng(5)
    query, gallery = random_problem(23, 157, persons=6)
    gallery_GD = random.standard_normal((157, 96), np.float32)
    gallery_GD[40:80] = gallery_GD[:40]
    return random.standard_normal((23, 96), np.float32), gallery_GD, query, gallery


@pytest.mark.parametrize(("query_block", "gallery_block"), [(1, 1), (1, 157), (5, 17), (23, 156), (64, 4096)])
def test_embeddings_give_the_same_bits_whatever_the_blocks(
    embedded: tuple[Floats, Floats, RetrievalLabels, RetrievalLabels], query_block: int, gallery_block: int
) -> None:
    query_QD, gallery_GD, query, gallery = embedded
    blocked = CosineDistances(query_QD, gallery_GD, query_block=query_block, gallery_block=gallery_block)
    matrix = np.full(blocked.shape, np.nan)
    for top, left, values in blocked.blocks():
        matrix[top : top + values.shape[0], left : left + values.shape[1]] = values
    every_query, every_gallery = (index.ravel() for index in np.indices(blocked.shape))
    assert np.array_equal(blocked.pairs(every_query, every_gallery), matrix.ravel())

    # Another order of the sum, as another BLAS or device may use.
    shuffled = np.random.default_rng(0).permutation(96)
    whole = next(CosineDistances(query_QD[:, shuffled], gallery_GD[:, shuffled]).blocks()).values
    assert np.array_equal(matrix, whole)

    assert figures(evaluate(blocked, query, gallery)) == figures(evaluate(DistanceMatrix(matrix), query, gallery))
    rows, entries = np.array([3, 1, 22]), np.array([0, 150, 40])
    assert np.array_equal(next(blocked.take(rows, entries).blocks()).values[0], matrix[3, entries[:gallery_block]])


def test_cosine_distance_is_that_of_float64_within_float32_rounding() -> None:
    random = np.random.default_rng(1)
    query_QD, gallery_GD = 30 * random.standard_normal((8, 2048)), random.standard_normal((9, 2048))
    distances = CosineDistances(torch.from_numpy(query_QD), torch.from_numpy(gallery_GD))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query_QD, gallery_GD)]
    np.testing.assert_allclose(next(distances.blocks()).values, 1 - unit[0] @ unit[1].T, atol=3e-8)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int32])
def test_any_type_of_distance_matrix(kind: torch.dtype) -> None:
    matrix = (100 * torch.rand((12, 40), generator=torch.Generator().manual_seed(0))).to(kind)
    query, gallery = random_problem(12, 40, persons=4)
    result = evaluate(DistanceMatrix(matrix), query, gallery).results["general"]
    expected = loop_over_queries(matrix.tolist(), query, gallery, PROTOCOLS["general"])
    assert result.mean_average_precision == mean([f.average_precision for f in expected if f])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_equal_distances_stand_in_the_order_of_the_gallery(kind: type[np.floating]) -> None:
    query = made_labels("q", ["A"], [1], ["x"])
    gallery = made_labels("g", ["B", "A", "C", "A", "D"], [2] * 5, ["x"] * 5)
    matrix = np.full((1, 5), 0.1, kind)
    result = evaluate(DistanceMatrix(matrix), query, gallery, top_k=5)
    assert result.ranked_gallery("general").gallery_QK.tolist() == [[0, 1, 2, 3, 4]]
    assert result.results["general"].average_precision_Q.tolist() == [(1 / 2 + 2 / 4) / 2]
    # A difference of one unit in the last place of the given precision is not a tie.
    matrix[0, 3] = np.nextafter(kind(0.1), kind(0))
    result = evaluate(DistanceMatrix(matrix), query, gallery, top_k=5)
    assert result.ranked_gallery("general").gallery_QK.tolist() == [[3, 0, 1, 2, 4]]


def test_metrics_json() -> None:
    query = made_labels("q", ["A", "A", "C"], [1, 1, 1], ["x", "y", "z"])
    gallery = made_labels("g", ["A", "B", "A"], [2, 2, 3], ["x", "x", "y"])
    matrix = np.array([[0.1, 0.2, 0.3], [0.9, 0.5, 0.8], [0.1, 0.2, 0.3]])
    evaluation = evaluate(DistanceMatrix(matrix), query, gallery)
    expected = {  # mAP, mINP, top-1
        "general": (((1 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 2, 2 / 3, 0.5),  # ranks (1, 3) and (2, 3)
        "same_clothes": (0.75, 0.75, 0.5),  # the other match is junk: (1) and (2)
        "clothes_changing": (0.5, 0.5, 0.0),  # (2) and (2)
    }
    assert evaluation.to_json()["protocols"] == {
        name: {
            "map": mean_precision,
            "minp": mean_penalty,
            "cmc": {"1": top_1, "5": 1.0, "10": 1.0, "20": 1.0},
            "queries": 3,
            "queries_without_match": 1,
        }
        for name, (mean_precision, mean_penalty, top_1) in expected.items()
    }
    table = metrics_table(evaluation, title="Walkers")
    row = next(line for line in table.splitlines() if "clothes-changing" in line)
    assert " ".join(row.split()) == "clothes-changing 50.0 50.0 0.0 100.0 100.0 100.0 50.0 3 1"
    assert "left out: same-scale, different-scale (no query tracklet has a scale label)" in table


def test_query_table(tmp_path: Path) -> None:
    query = made_labels("q", ["A", "C"], [1, 1], ["x", "z"])
    gallery = made_labels("g", ["A", "B", "A"], [2, 2, 1], ["x", "x", "y"])
    matrix = np.array([[0.5, 0.25, 0.125], [0.5, 0.25, 0.75]])
    evaluation = evaluate(DistanceMatrix(matrix), query, gallery, protocols=[PROTOCOLS["general"]], top_k=3)
    write_query_table(evaluation, tmp_path / "queries.parquet")
    assert pq.read_table(tmp_path / "queries.parquet").to_pylist() == [
        {
            "query_id": "q0",
            "person": "A",
            "protocol": "general",
            "average_precision": 0.5,
            "inverse_negative_penalty": 0.5,
            "first_match_rank": 2,
            "gallery_ids": ["g1", "g0"],
            "distances": [0.25, 0.5],
            "is_match": [False, True],
        },
        {
            "query_id": "q1",
            "person": "C",
            "protocol": "general",
            "average_precision": None,
            "inverse_negative_penalty": None,
            "first_match_rank": None,
            "gallery_ids": ["g1", "g0", "g2"],
            "distances": [0.25, 0.5, 0.75],
            "is_match": [False, False, False],
        },
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["queries.parquet"]


def test_the_query_table_holds_those_that_take_part(tmp_path: Path) -> None:
    query, gallery = made_labels("q", ["A", "A"], [1, 2], ["x", "x"]), made_labels("g", ["A"], [3], ["x"])
    protocol = Protocol("p", within={"camera": ("2", "3")})
    evaluation = evaluate(DistanceMatrix(np.zeros((2, 1))), query, gallery, protocols=[protocol], top_k=1)
    write_query_table(evaluation, tmp_path / "queries.parquet")
    assert pq.read_table(tmp_path / "queries.parquet")["query_id"].to_pylist() == ["q1"]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros(3), r"file.npz: float64 of shape \(3,\), expected numbers of shape \(queries, gallery\)"),
        (np.zeros((2, 2), bool), r"file.npz: bool of shape \(2, 2\)"),
        (np.array([[0.0, 1.0], [0.0, np.nan]]), "file.npz: distance of query row 1, column 1 is nan"),
        (np.array([[np.inf, 1.0], [0.0, 0.0]], np.float32), "row 0, column 0 is inf"),
    ],
)
def test_bad_distance_matrices(matrix: npt.NDArray[np.generic], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistanceMatrix(matrix, origin="file.npz")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.0, np.nan], "embeddings: gallery embedding row 1, column 1 is nan"),
        ([0.0, 0.0], "embeddings: gallery embedding row 1: largest absolute value is 0.0, expected 1e-30"),
        ([1.0, -1e38], r"gallery embedding row 1: largest absolute value is \d.*e\+37, expected 1e-30"),
    ],
)
def test_bad_embeddings(row: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CosineDistances(np.ones((1, 2), np.float32), np.array([[1.0, 2.0], row], np.float32))


def test_sets_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="query embeddings have 2 dimensions, gallery embeddings 3"):
        CosineDistances(np.ones((1, 2), np.float32), np.ones((1, 3), np.float32))
    query, gallery = random_problem(3, 5, persons=2)
    with pytest.raises(InputError, match=r"distances have shape \(3, 4\), expected \(3, 5\)"):
        evaluate(DistanceMatrix(np.zeros((3, 4))), query, gallery)
    with pytest.raises(InputError, match="nothing to score: 0 queries, 5 gallery tracklets"):
        evaluate(DistanceMatrix(np.zeros((0, 5))), query.take([]), gallery)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_ranks_are_the_same_for_any_threads(threads: int) -> None:
    query, gallery = random_problem(23, 157, persons=6)
    random = np.random.default_rng(4)
    asked, there = (random.integers(-2, 3, (size, 3)).astype(np.float32) + 0.1 for size in (23, 157))  # many ties
    distances = CosineDistances(asked, there, query_block=5, gallery_block=40)
    before = torch.get_num_threads()
    whole = evaluate(distances, query, gallery, top_k=7)
    torch.set_num_threads(threads)
    try:
        found = evaluate(distances, query, gallery, top_k=7)
    finally:
        torch.set_num_threads(before)
    assert found.to_json() == whole.to_json()
    for name in whole.results:
        for one, other in zip(astuple(found.ranked_gallery(name)), astuple(whole.ranked_gallery(name)), strict=True):
            assert np.array_equal(one, other)
