from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from data_tools.colour_outfits import cluster_colours, colour_histograms, guess_outfits, main_colours
from data_tools.errors import InputError
from data_tools.shards import ShardFolder

RED, GREEN, BLUE, GREY = (200, 20, 20), (20, 160, 30), (30, 40, 190), (120, 120, 120)


@dataclass(frozen=True)
class Painted:
    """A tracklet of pictures with one colour above, one below, and another on the left and right."""

    id: str
    upper: tuple[int, int, int]
    lower: tuple[int, int, int]
    around: tuple[int, int, int] = GREY
    frame_count: int = 5


@dataclass
class PaintedStore:
    rows: Sequence[Painted]
    size: tuple[int, int] = (64, 32)
    read: int = 0

    def encoded_frames(self, row: int, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        height, width = self.size
        tracklet = self.rows[row]
        assert 0 <= min(positions) <= max(positions) < tracklet.frame_count
        self.read += len(positions)
        picture = np.empty((height, width, 3), np.uint8)
        picture[:] = tracklet.around
        picture[: height // 2, width // 4 : -width // 4] = tracklet.upper
        picture[height // 2 :, width // 4 : -width // 4] = tracklet.lower
        return [picture] * len(positions)


def test_tracklets_of_one_colour_share_a_label_numbered_by_their_ids() -> None:
    store = PaintedStore(
        [
            Painted("c", RED, BLUE),
            Painted("a", GREEN, BLUE, around=BLUE),
            Painted("b", RED, BLUE, around=GREEN),
            Painted("d", GREEN, BLUE),
            Painted("e", GREEN, RED),
            Painted("other", GREEN, RED),
        ]
    )
    expected = {0: "colour1", 1: "colour0", 2: "colour1", 3: "colour0", 4: "colour2", 5: "colour0"}
    assert guess_outfits(store, {"p": [0, 1, 2, 3, 4], "q": [5]}, distance=0.4) == expected
    assert guess_outfits(store, {"q": [5], "p": [4, 2, 0, 3, 1]}, distance=0.4, threads=1) == expected
    assert set(guess_outfits(store, {"p": [0, 1, 2, 3, 4]}, distance=0.99).values()) == {"colour0"}
    shuffled = PaintedStore(store.rows[::-1], size=(128, 64))
    assert guess_outfits(shuffled, {"p": [1, 2, 3, 4, 5]}, distance=0.4) == {
        5 - row: label for row, label in expected.items() if row != 5
    }


def test_histograms_have_length_one_and_measure_the_halves_alike() -> None:
    rows = [Painted("a", RED, BLUE, RED), Painted("b", RED, GREEN, RED), Painted("c", BLUE, RED, BLUE)]
    rows += [Painted("d", RED, BLUE, RED, frame_count=1)]
    store = PaintedStore(rows)
    colours = colour_histograms(store, [0, 1, 2, 3])
    np.testing.assert_allclose((colours**2).sum(1), 1)
    np.testing.assert_allclose(colours[0], colours[3], atol=1e-12)
    assert store.read == 4 + 4 + 4 + 1
    # Hellinger: the upper halves are equal, the lower ones share only some background.
    between = np.sqrt(((colours[0] - colours[1]) ** 2).sum() / 2)
    assert 0.6 < between < np.sqrt(0.5)


def test_clusters_are_those_of_average_linkage() -> None:
    """Three in a row at Hellinger distances 0.3, 0.3 and, between the ends, 0.6: the mean of 0.3 and 0.6 decides."""
    line = np.array([[0.0, 0.0], [0.3, 0.0], [0.6, 0.0], [9.0, 0.0]]) * np.sqrt(2)
    assert cluster_colours(line, 0.5) == [0, 0, 0, 1]
    assert len(set(cluster_colours(line, 0.4))) == 3
    assert cluster_colours(line, 0.2) == [0, 1, 2, 3]
    assert cluster_colours(line[:1], 0.2) == [0]


def test_walkers_outfits_are_found_and_a_damaged_frame_is_named(tiny_shards: Path) -> None:
    store = ShardFolder(tiny_shards)
    own: dict[str, list[int]] = {}
    for number, row in enumerate(store.rows):
        if row.split == "train":
            own.setdefault(str(row.person), []).append(number)
    guessed = guess_outfits(store, own, distance=0.4)
    scores = [
        adjusted_rand_score([store.rows[r].clothes for r in rows], [guessed[r] for r in rows]) for rows in own.values()
    ]
    assert np.mean(scores) > 0.8
    assert guess_outfits(ShardFolder(tiny_shards), own, distance=0.4, threads=3) == guessed

    class Damaged(PaintedStore):
        def encoded_frames(self, row: int, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
            return [frame.ravel()[:9] for frame in super().encoded_frames(row, positions)]

    with pytest.raises(InputError, match="tracklet torn"):
        guess_outfits(Damaged([Painted("torn", RED, RED)]), {"p": [0]}, distance=0.4)


def test_main_colours_have_names() -> None:
    black, white, orange = (8, 8, 8), (245, 245, 245), (240, 140, 10)
    looks = [(RED, BLUE), (GREEN, RED), (black, white), (GREY, orange), (BLUE, GREEN)]
    store = PaintedStore([Painted(str(number), *look) for number, look in enumerate(looks)])
    assert main_colours(colour_histograms(store, range(len(looks)))) == {
        "upper": ["red", "green", "black", "grey", "blue"],
        "lower": ["blue", "red", "white", "orange", "green"],
    }
