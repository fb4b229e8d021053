"""Outfits guessed from clothing colours, for training identities without outfit labels.

    4 frames of a tracklet → HSV histograms of upper and lower body → Hellinger distance → clusters per person

R tracklets, T frames each, D histogram bins, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from data_tools.decoding_threads import Job, fill_in_threads
from data_tools.stored_frames import FrameStore, decode_clip_

Floats = NDArray[np.float64]

FRAMES = 4
"""Evenly spaced frames sampled from a tracklet."""
SIZE = (64, 32)
"""Height and width to which they are resized."""
BODY = {"upper": slice(11, 31), "lower": slice(33, 57)}
"""Rows that show chest and arms, and hips and legs, in a box that fits the person."""
HUES, SHADES, GREYS = 16, 2, 6
"""Histogram bins: each hue dark and bright for strong colours, brightness levels for greys."""
GREY_BELOW = 60
"""Saturation (of 255) below which a colour counts as grey, because its hue is mostly noise."""
HUE_NAMES = (
    *("red", "orange", "yellow", *["green"] * 4, *["cyan"] * 2),
    *(*["blue"] * 3, *["purple"] * 2, "pink", "red"),
)
"""Of each of ``HUES``."""
GREY_NAMES = ("black", "black", "grey", "grey", "white", "white")
"""Of each of ``GREYS``."""


def guess_outfits(
    store: FrameStore, rows_of_person: Mapping[str, Sequence[int]], *, distance: float, threads: int = 2
) -> dict[int, str]:
    """A clothes label ("colour0", "colour1", …) for each stored row, unique only within its person.

    A person's labels are numbered in order of tracklet id, so the same tracklets get the same labels wherever and in
    whatever order they are stored. The cost is decoding ``FRAMES`` frames per tracklet.

    Args:
        distance: clusters at least this far apart on average (0 to 1) are different outfits.
        threads: decoding threads.

    Raises:
        InputError: a frame cannot be decoded.
    """
    rows = [row for own in rows_of_person.values() for row in sorted(own, key=lambda row: store.rows[row].id)]
    colours = dict(zip(rows, colour_histograms(store, rows, threads=threads), strict=True))
    labels: dict[int, str] = {}
    for own in rows_of_person.values():
        ordered = sorted(own, key=lambda row: store.rows[row].id)
        clusters = cluster_colours(np.stack([colours[row] for row in ordered]), distance)
        labels |= {row: f"colour{cluster}" for row, cluster in zip(ordered, clusters, strict=True)}
    return labels


def colour_histograms(store: FrameStore, rows: Sequence[int], *, threads: int = 2) -> Floats:
    """Square roots of the colour histograms of upper and lower body, (R, D) float64, each row of norm 1.

    A pixel's weight falls off from the middle column to the edges, where the background is.
    """
    colours_RD = np.empty((len(rows), len(BODY) * (HUES * SHADES + GREYS)))

    def fill(place: int) -> None:
        colours_RD[place] = _histogram(_frames(store, rows[place]))

    jobs: list[Job[Floats]] = [(colours_RD, fill)]
    for _ in fill_in_threads(iter(jobs), threads=threads, ahead=0):
        pass
    return colours_RD


def main_colours(colours_RD: Floats) -> dict[str, list[str]]:
    """For each part of the body the name of the colour that has most of it in each of R histograms."""
    names = np.array([*np.repeat(HUE_NAMES, SHADES), *GREY_NAMES])
    known = sorted(set(names.tolist()))
    share_RPB = (colours_RD**2).reshape(len(colours_RD), len(BODY), len(names))
    share_RPC = np.stack([share_RPB[..., names == name].sum(-1) for name in known], axis=-1)
    return {part: [known[place] for place in share_RPC[:, number].argmax(-1)] for number, part in enumerate(BODY)}


def cluster_colours(colours_RD: Floats, distance: float) -> list[int]:
    """Agglomerative clusters (average linkage, Hellinger distance), numbered by first appearance."""
    if len(colours_RD) < 2:
        return [0] * len(colours_RD)
    from sklearn.cluster import AgglomerativeClustering  # takes seconds, and most runs have labels

    clusters = AgglomerativeClustering(
        n_clusters=None, metric="euclidean", linkage="average", distance_threshold=distance * 2**0.5
    ).fit_predict(colours_RD)  # the Hellinger distance is the distance of the roots divided by √2
    number: dict[int, int] = {}
    return [number.setdefault(cluster, len(number)) for cluster in clusters.tolist()]


def _frames(store: FrameStore, row: int) -> NDArray[np.uint8]:
    """Evenly spaced frames of a tracklet, (T, H, W, 3) RGB."""
    count = store.rows[row].frame_count
    positions = np.unique((2 * np.arange(FRAMES, dtype=np.int64) + 1) * count // (2 * FRAMES))
    clip_THWC = torch.empty((len(positions), *SIZE, 3), dtype=torch.uint8)
    decode_clip_(clip_THWC.permute(0, 3, 1, 2), store, row, positions)
    return clip_THWC.numpy()


def _histogram(frames_THWC: NDArray[np.uint8]) -> Floats:
    """Bins of the upper body, then of the lower body, (D,); each part has half the total weight."""
    flat = frames_THWC.reshape(-1, frames_THWC.shape[2], 3)
    hsv = np.asarray(Image.fromarray(flat).convert("HSV")).reshape(frames_THWC.shape).astype(np.int64)
    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    strong = hue * HUES // 256 * SHADES + value * SHADES // 256
    cell_THW = np.where(saturation < GREY_BELOW, HUES * SHADES + value * GREYS // 256, strong)
    across = (np.arange(SIZE[1]) + 0.5) / SIZE[1] - 0.5
    weight_W = np.exp(-0.5 * (across / 0.15) ** 2)
    halves = []
    for part in BODY.values():
        cells = cell_THW[:, part]
        total = np.bincount(cells.ravel(), np.broadcast_to(weight_W, cells.shape).ravel(), HUES * SHADES + GREYS)
        halves.append(total / total.sum() / len(BODY))
    colours_D: Floats = np.sqrt(np.concatenate(halves))
    return colours_D
