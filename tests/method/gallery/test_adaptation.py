"""Query expansion, gallery centroids and camera means, by hand and by their purpose."""

from __future__ import annotations

import numpy as np
import pytest

from ccvid.retrieval.gallery.adaptation import expand_queries, gallery_centroids, subtract_camera_means
from ccvid.retrieval.gallery.unit_vectors import unit
from ccvid.retrieval.gallery.vectors import MatrixVectors


def test_a_query_moves_to_its_neighbours() -> None:
    query = np.array([[2.0, 0.0]], np.float32)
    gallery = np.array([[0.6, 0.8], [-1.0, 0.1], [0.0, 3.0]], np.float32)
    found = expand_queries(query, MatrixVectors(gallery), k=1, alpha=2.0)
    np.testing.assert_allclose(found, unit(np.array([[1 + 0.36 * 0.6, 0.36 * 0.8]])), atol=1e-6)
    # Entries with a negative cosine have no weight.
    np.testing.assert_allclose(expand_queries(query, MatrixVectors(gallery[1:2]), k=9), [[1.0, 0.0]], atol=1e-6)


def test_mutual_neighbours_share_a_centroid() -> None:
    angle = np.radians([0, 4, 90, 94, 200])
    gallery = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    found = gallery_centroids(MatrixVectors(gallery), k=1)(np.arange(5), gallery)
    degrees = np.degrees(np.arctan2(found[:, 1], found[:, 0])) % 360
    np.testing.assert_allclose(degrees, [2, 2, 92, 92, 200], atol=1e-3)


def without_means(
    query: np.ndarray, gallery: np.ndarray, query_camera: list[str], gallery_camera: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    moved, change = subtract_camera_means(query, MatrixVectors(gallery), query_camera, gallery_camera)
    return moved, change(np.arange(len(gallery)), gallery)


def test_what_a_camera_adds_is_taken_away() -> None:
    random = np.random.default_rng(0)
    person, tint = random.standard_normal((30, 8)), 3 * random.standard_normal((2, 8))
    query, gallery = (unit(unit(person) + tint[camera]) for camera in (0, 1))
    moved = without_means(query, gallery, ["a"] * 30, ["b"] * 30)
    right = [(side[0] @ side[1].T).argmax(axis=1) == np.arange(30) for side in ((query, gallery), moved)]
    assert right[1].mean() > max(0.9, right[0].mean())
    np.testing.assert_allclose(np.linalg.norm(np.concatenate(moved), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("cameras", [(["a"], ["a"] * 3), (["a"], ["b", "c", "d"])])
def test_one_camera_or_one_embedding_each_changes_nothing(cameras: tuple[list[str], list[str]]) -> None:
    random = np.random.default_rng(1)
    query, gallery = (unit(random.standard_normal((size, 4))) for size in (1, 3))
    moved = without_means(query, gallery, *cameras)
    np.testing.assert_allclose(moved[0], query, atol=1e-6)
    np.testing.assert_allclose(moved[1], gallery, atol=1e-6)
