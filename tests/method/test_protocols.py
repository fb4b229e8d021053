"""Which gallery entries are matches, wrong or junk, protocol by protocol."""

from __future__ import annotations

import numpy as np
import pytest

from ccvid.retrieval.distances import DistanceMatrix
from ccvid.retrieval.labels import RetrievalLabels, joint_codes
from ccvid.retrieval.metrics import evaluate
from ccvid.retrieval.protocols import PROTOCOLS, Protocol
from data_tools.errors import InputError

# A query of person A before camera 1 in the red outfit, at an indoor place and a large scale.
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
    """The whole ranking and its matches, with distances that grow along the gallery."""
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
    assert PROTOCOLS["clothes_changing"].describe() == "same person, other camera, other clothes"


def test_a_set_without_camera_rule() -> None:
    with_camera = PROTOCOLS["same_clothes"].with_same_camera()
    assert with_camera.agree == ("clothes",)
    assert ranking(with_camera)[1] == ["same camera, same clothes", SAME]


def test_a_query_is_never_its_own_match() -> None:
    gallery = RetrievalLabels(("q", *NAMES[1:]), PERSON, CAMERA, CLOTHES)
    assert ranking(Protocol("anywhere", differ=()), gallery)[1] == NAMES[1:5]


def test_a_new_protocol_is_only_data() -> None:
    gallery = RetrievalLabels(tuple(NAMES), PERSON, CAMERA, CLOTHES, {"location": LOCATION})
    elsewhere_in_the_same_clothes = Protocol("x", agree=("clothes",), differ=("location",))
    changed = gallery.take([0, 1, 3, 5])
    with pytest.raises(InputError, match="x: no query has a match in the gallery"):
        ranking(elsewhere_in_the_same_clothes, changed)


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
