"""Which gallery entries are matches, wrong or junk, protocol by protocol."""

from __future__ import annotations

import numpy as np
import pytest

from ccvid.config import ProtocolOptions, ScoreOptions
from ccvid.retrieval.ranking.distances import DistanceMatrix
from ccvid.retrieval.ranking.labels import RetrievalLabels, joint_codes
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import PROTOCOLS, Protocol, with_own
from data_tools.errors import InputError

# A query of person A seen by camera 1 in the red outfit, at an indoor place and a large scale.
QUERY = RetrievalLabels(("q",), ("A",), ("1",), ("red",), {"location": ("in",), "scale": ("l",)})
# name: person, camera, clothes, location, scale
GALLERY_ROWS = {
    "same camera, same clothes": ("A", "1", "red", "in", "l"),
    "same camera, other clothes": ("A", "1", "blue", "out", "m"),
    "other camera, same clothes": ("A", "2", "red", "in", "l"),
    "other camera, other clothes": ("A", "2", "blue", "out", "m"),
    "other camera, nothing known": ("A", "3", None, None, None),
    "another person in red": ("B", "2", "red", "in", "l"),
}
NAMES = list(GALLERY_ROWS)
PERSON, CAMERA, CLOTHES, LOCATION, SCALE = zip(*GALLERY_ROWS.values(), strict=True)
GALLERY = RetrievalLabels(tuple(NAMES), PERSON, CAMERA, CLOTHES, {"location": LOCATION, "scale": SCALE})
SAME, OTHER, UNKNOWN = NAMES[2], NAMES[3], NAMES[4]


def ranking(protocol: Protocol, gallery: RetrievalLabels = GALLERY) -> tuple[list[str], list[str]]:
    """The whole ranking and its matches, with distances that increase along the gallery."""
    distances = DistanceMatrix(np.arange(len(gallery), dtype=np.float64)[None])
    evaluation = evaluate(distances, QUERY, gallery, protocols=[protocol], top_k=len(gallery))
    ranked = evaluation.ranked_gallery(protocol.name)
    names = [gallery.ids[g] for g in ranked.gallery_QK[0] if g >= 0]
    return names, [gallery.ids[g] for g in ranked.gallery_QK[0][ranked.is_match_QK[0]]]


@pytest.mark.parametrize(
    ("protocol", "matches"),
    [
        ("general", [SAME, OTHER, UNKNOWN]),
        ("same_clothes", [SAME]),
        ("clothes_changing", [OTHER]),
        ("same_location", [SAME]),
        ("different_location", [OTHER]),
        ("same_scale", [SAME]),
        ("different_scale", [OTHER]),
    ],
)
def test_matches_and_junk(protocol: str, matches: list[str]) -> None:
    assert ranking(PROTOCOLS[protocol]) == ([*matches, "another person in red"], matches)


def test_the_names_are_those_of_metrics_json() -> None:
    assert [protocol.name for protocol in PROTOCOLS.values()] == list(PROTOCOLS)
    assert PROTOCOLS["clothes_changing"].describe() == "same person, different camera, different clothes"


def test_a_set_without_camera_rule() -> None:
    assert ranking(Protocol("x", agree=("clothes",), differ=()))[1] == ["same camera, same clothes", SAME]


def test_a_query_is_never_its_own_match() -> None:
    gallery = RetrievalLabels(("q", *NAMES[1:]), PERSON, CAMERA, CLOTHES)
    assert ranking(Protocol("anywhere", differ=()), gallery)[1] == NAMES[1:5]


def test_a_new_protocol_is_only_data() -> None:
    gallery = RetrievalLabels(tuple(NAMES), PERSON, CAMERA, CLOTHES, {"location": LOCATION})
    elsewhere_in_the_same_clothes = Protocol("x", agree=("clothes",), differ=("location",))
    changed = gallery.take([0, 1, 3, 5])
    with pytest.raises(InputError, match="x: no query has a match in the gallery"):
        ranking(elsewhere_in_the_same_clothes, changed)


def test_within_leaves_out_wrong_entries_too() -> None:
    cameras = Protocol("x", within={"camera": ("1", "3")})
    assert cameras.describe() == "same person, different camera, only camera 1 and 3"
    assert ranking(cameras) == ([UNKNOWN], [UNKNOWN])  # the other person is seen by camera 2
    assert ranking(Protocol("x", within={"camera": ("1", "2")})) == ([SAME, OTHER, NAMES[5]], [SAME, OTHER])
    assert ranking(Protocol("x", within={"camera": ("1", "2"), "scale": ("l",)})) == ([SAME, NAMES[5]], [SAME])
    assert hash(cameras) == hash(Protocol("x", within={}))


def test_prcc_has_two_query_sets_under_the_usual_protocols() -> None:
    """Gallery: camera A. Queries: camera B in A's outfit, camera C in another."""
    random = np.random.default_rng(4)
    persons = [f"{person:03d}" for person in range(7)]

    def images(camera: str, count: int) -> RetrievalLabels:
        person = tuple(np.repeat(persons, count).tolist())
        outfit = "C" if camera == "C" else "AB"
        ids = tuple(f"{camera}/{number}" for number in range(len(person)))
        return RetrievalLabels(ids, person, (camera,) * len(person), (outfit,) * len(person))

    same, changed, gallery = images("B", 3), images("C", 4), images("A", 5)
    query = RetrievalLabels(
        (*same.ids, *changed.ids),
        (*same.person, *changed.person),
        (*same.camera, *changed.camera),
        (*same.clothes, *changed.clothes),
    )
    distances = random.random((len(query), len(gallery)))
    evaluation = evaluate(DistanceMatrix(distances), query, gallery)
    b = np.arange(len(query)) < len(same)
    assert np.array_equal(evaluation.results["same_clothes"].has_match, b)
    assert np.array_equal(evaluation.results["clothes_changing"].has_match, ~b)
    for name, rows, alone in (("same_clothes", b, same), ("clothes_changing", ~b, changed)):
        apart = evaluate(DistanceMatrix(distances[rows]), alone, gallery, protocols=[Protocol("any", differ=())])
        found, expected = evaluation.results[name].to_json(), apart.results["any"].to_json()
        assert {**found, "queries": len(alone), "queries_without_match": 0} == expected


def test_vc_clothes_on_two_cameras_alone() -> None:
    """Cameras 2 and 3 see the same outfit, 3 and 4 different ones; each pair is scored separately."""
    random = np.random.default_rng(5)
    sets = []
    for prefix, size in (("q", 30), ("g", 80)):
        camera = random.integers(1, 5, size)
        person, outfit = random.integers(0, 6, size), np.where(camera == 4, "second", "first")
        persons, cameras, outfits = (tuple(map(str, column.tolist())) for column in (person, camera, outfit))
        sets.append(RetrievalLabels(tuple(f"{prefix}{row}" for row in range(size)), persons, cameras, outfits))
    query, gallery = sets
    matrix = random.random((30, 80))
    recipe = ScoreOptions.model_validate(
        {
            "protocols": [
                {"name": "same_clothes_cameras_2_3", "differ": ["camera"], "within": {"camera": ["2", "3"]}},
                {"name": "clothes_changing_cameras_3_4", "differ": ["camera"], "within": {"camera": ["3", "4"]}},
            ]
        }
    )
    evaluation = evaluate(DistanceMatrix(matrix), query, gallery, protocols=with_own(recipe.protocols))
    assert list(evaluation.results) == [
        "general", "same_clothes", "clothes_changing", "same_clothes_cameras_2_3", "clothes_changing_cameras_3_4"
    ]  # fmt: skip
    for name, pair in (("same_clothes_cameras_2_3", "23"), ("clothes_changing_cameras_3_4", "34")):
        rows, entries = ([n for n, camera in enumerate(side.camera) if camera in pair] for side in (query, gallery))
        apart = evaluate(DistanceMatrix(matrix[np.ix_(rows, entries)]), query.take(rows), gallery.take(entries))
        assert evaluation.results[name].to_json() == apart.results["general"].to_json()
        assert evaluation.results[name].queries == len(rows) < len(query)


def test_a_protocol_that_cannot_be_applied_says_why() -> None:
    own = (
        ProtocolOptions(name="no_column", agree=("weather",)),
        ProtocolOptions(name="no_label", within={"camera": ("1", "7", "8")}),
        ProtocolOptions(name="no_column_within", within={"weather": ("rain",)}),
        ProtocolOptions(name="nobody_asks", within={"camera": ("2", "3")}),
        ProtocolOptions(name="nobody_answers", within={"camera": ("1",), "scale": ("l",)}),
        ProtocolOptions(name="unknown_there", agree=("clothes",), within={"camera": ("1", "3")}),
    )
    gallery = GALLERY.take([1, 3, 4, 5])
    evaluation = evaluate(DistanceMatrix(np.zeros((1, 4))), QUERY, gallery, protocols=with_own(own))
    assert {options.name: evaluation.left_out[options.name] for options in own} == {
        "no_column": "no query tracklet has a weather label",
        "no_label": "no tracklet has camera '7' or '8'",
        "no_column_within": "no tracklet has weather 'rain'",
        "nobody_asks": "no query tracklet takes part",
        "nobody_answers": "no gallery tracklet takes part",
        "unknown_there": "no query has a match in the gallery",
    }
    with pytest.raises(InputError, match=r"none of the protocols can be scored .*no_label: no tracklet has camera '7'"):
        evaluate(DistanceMatrix(np.zeros((1, 4))), QUERY, gallery, protocols=[Protocol.of(own[1])])


@pytest.mark.parametrize("names", [["general"], ["mine", "mine"]])
def test_a_name_that_is_taken(names: list[str]) -> None:
    with pytest.raises(InputError, match=f"duplicate name '{names[-1]}'; already used: general, "):
        with_own(tuple(ProtocolOptions(name=name) for name in names))


@pytest.mark.parametrize("side", ["query", "gallery"])
def test_a_protocol_without_labels_is_left_out_and_says_why(side: str) -> None:
    unlabelled = RetrievalLabels(("other",), ("A",), ("9",), (None,))
    query, gallery = (unlabelled, GALLERY) if side == "query" else (QUERY, unlabelled)
    evaluation = evaluate(DistanceMatrix(np.zeros((1, len(gallery)))), query, gallery)
    assert list(evaluation.results) == ["general"]
    assert evaluation.left_out["clothes_changing"] == f"no {side} tracklet has a clothes label"
    assert evaluation.left_out["same_scale"] == f"no {side} tracklet has a scale label"


def test_codes_come_from_sorted_labels_of_both_sets() -> None:
    query, gallery = joint_codes(("b", None, "c"), ("a", "c", None, "b"))
    assert query.tolist() == [1, -1, 2]
    assert gallery.tolist() == [0, 2, -1, 1]


def test_label_columns_must_have_one_length() -> None:
    with pytest.raises(InputError, match="'clothes' has 2 rows, expected 1"):
        RetrievalLabels(("a",), ("p",), ("c",), ("x", "y"))
    with pytest.raises(InputError, match="'scale' has 0 rows, expected 1"):
        RetrievalLabels(("a",), ("p",), ("c",), ("x",), {"scale": ()})
