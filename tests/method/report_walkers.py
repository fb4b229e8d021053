"""Made retrievals to report: coloured figures that walk past cameras in changing clothes, and small ones with ties."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ccvid.retrieval.embedding.table import EmbeddingRow
from ccvid.retrieval.ranking.bootstrap import result_intervals
from ccvid.retrieval.ranking.distances import CosineDistances, DistanceMatrix
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import PROTOCOLS, Protocol
from ccvid.retrieval.report.film_strip import Picture, Thumbnails
from ccvid.retrieval.report.report import write_report
from ccvid.retrieval.report.report_input import ExtraFigure, ReportInput, Threshold

KEPT = 4
"""Places kept by ``small``."""
HOSTILE = "<script>alert(1)</script>"
LONG = "a/very long identifier, with spaces / and “quotes” \"'& </script> ümläut 人 " + "x" * 80


def walkers(
    queries: int = 120,
    gallery: int = 480,
    *,
    persons: int = 30,
    cameras: int = 5,
    top_k: int = 12,
    seed: int = 0,
    dimensions: int = 48,
) -> ReportInput:
    """Every protocol of clothes and location applies; query 0 has a hostile id, query 1 a long one."""
    random = np.random.default_rng(seed)
    face = random.standard_normal((persons, dimensions))
    outfit, view = random.standard_normal((persons, 3, dimensions)), random.standard_normal((cameras, dimensions))
    sides, embeddings, pictures = [], [], []
    for prefix, size in (("q", queries), ("g", gallery)):
        who, camera, clothes = (random.integers(0, most, size) for most in (persons, cameras, 3))
        noise = random.standard_normal((size, dimensions))
        embeddings.append(
            (face[who] + 0.8 * outfit[who, clothes] + 0.6 * view[camera] + 1.1 * noise).astype(np.float32)
        )
        start = random.uniform(0, 9000, size)
        ids = [f"{prefix}/{number:05d}" for number in range(size)]
        ids[:2] = [f"{prefix} {HOSTILE}", f"{prefix} {LONG}"]
        sides.append(
            RetrievalLabels(
                ids=tuple(ids),
                person=tuple(HOSTILE if person == 0 else f"P{person}" for person in who),
                camera=tuple("<b>gate</b>" if number == 0 else f"cam {number}" for number in camera),
                clothes=tuple(("coat", "jacket", "suit")[number] for number in clothes),
                attributes={
                    "location": tuple("indoors" if number < 2 else "outdoors" for number in camera),
                    "start_seconds": tuple(f"{second:.2f}" for second in start),
                    "end_seconds": tuple(f"{second + 6:.2f}" for second in start),
                },
            )
        )
        pictures.append(walking(who * 3 + clothes, camera))
    distances = CosineDistances(*embeddings)
    evaluation = evaluate(distances, *sides, top_k=top_k)
    intervals = {
        name: result_intervals(result, sides[0].person, draws=100) for name, result in evaluation.results.items()
    }
    return ReportInput(
        title=f"Walkers & {HOSTILE}",
        evaluation=evaluation,
        distances=distances,
        query_thumbnails=pictures[0],
        gallery_thumbnails=pictures[1],
        facts={"model": "made embeddings", "data set": HOSTILE, "path": "/a/long/path/" + "folder/" * 20},
        probability=lambda score: 1 / (1 + np.exp(-12 * (score - 0.4))),
        threshold=Threshold(0.45, (0.41, 0.5), "for one false match in 1,000 pairs"),
        intervals=intervals,
        figures=[ExtraFigure("Reliability", CHART, f"Shown and found shares, {HOSTILE}")],
    )


def unlabelled_walkers(count: int, seed: int = 3) -> tuple[list[EmbeddingRow], Thumbnails]:
    """Tracklets of unknown persons, and their frames."""
    random = np.random.default_rng(seed)
    outfit, camera = random.integers(0, 6, count), random.integers(0, 3, count)
    rows = [
        EmbeddingRow(
            id=f"yard/{number}",
            person=None,
            clothes=None,
            camera=f"cam {camera[number]}",
            split="gallery",
            attributes={"start_seconds": str(40 * number), "end_seconds": str(40 * number + 5)},
            clip_count=1,
            shard="made",
        )
        for number in range(count)
    ]
    return rows, walking(outfit, camera)


def walking(outfit: npt.NDArray[np.int64], camera: npt.NDArray[np.int64]) -> Thumbnails:
    """Three frames of a figure whose legs move, its colours by ``outfit`` (N,), its background by ``camera`` (N,)."""

    @lru_cache(maxsize=4096)
    def drawn(look: int, place: int) -> tuple[Picture, ...]:
        return tuple(_frame(look, place, step) for step in (-1, 0, 1))

    return lambda index: list(drawn(int(outfit[index]), int(camera[index])))


def _frame(look: int, place: int, step: int) -> Picture:
    red, green, blue = (value // 3 + 30 * (place % 3) for value in _hue(place + 3))
    image = Image.new("RGB", (128, 256), (red, green, blue))
    draw = ImageDraw.Draw(image)
    middle = 64 + 6 * step
    draw.rectangle((0, 225, 128, 256), fill=(60, 60, 64))
    draw.ellipse((middle - 14, 30, middle + 14, 62), fill=(224, 182, 150))
    draw.rectangle((middle - 24, 64, middle + 24, 140), fill=_hue(look + 7))
    for side in (-1, 1):
        draw.line(
            (middle + 10 * side, 140, middle + 10 * side + 14 * side * step, 232), fill=_hue(look // 3 + 1), width=16
        )
    return np.asarray(image)


def _hue(number: int) -> tuple[int, int, int]:
    red, green, blue = (int(80 + 150 * ((number * factor) % 1)) for factor in (0.618, 0.381, 0.755))
    return red, green, blue


CHART = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 300 150"><script>alert(2)</script>'
    '<path d="M20 130 L280 20" stroke="#2f86c8" stroke-width="4" fill="none"/></svg>'
)


def frames(index: int) -> list[Picture]:
    return [np.full((40, 20, 3), index % 251, np.uint8), np.full((30, 30, 3), 90, np.uint8)]


def small(
    seed: int = 0, queries: int = 60, gallery: int = 90, protocols: Iterable[Protocol] = PROTOCOLS.values()
) -> ReportInput:
    """Seven persons, two of them with few entries, distances with many ties, some clothes unknown."""
    random = np.random.default_rng(seed)
    sides = []
    for prefix, size in (("q", queries), ("g", gallery)):
        person = random.choice(7, size, p=(0.3, 0.3, 0.2, 0.1, 0.06, 0.02, 0.02))
        clothes = tuple(f"c{code}" if code else None for code in random.integers(0, 3, size))
        cameras = tuple(f"cam{code}" for code in random.integers(8, 11, size))
        ids = tuple(f"{prefix}{row}" for row in range(size))
        sides.append(RetrievalLabels(ids, tuple(f"p{code}" for code in person), cameras, clothes))
    distances = DistanceMatrix(random.integers(0, 40, (queries, gallery)) / 64)
    evaluation = evaluate(distances, *sides, protocols=protocols, top_k=KEPT)
    return ReportInput("Small", evaluation, distances, frames, frames)


def one_query() -> ReportInput:
    """One query, one match, and no other person."""
    sides = [RetrievalLabels((name,), ("p",), (camera,), (None,)) for name, camera in (("q", "a"), ("g", "b"))]
    distances = DistanceMatrix(np.array([[0.25]]))
    return ReportInput("One", evaluate(distances, *sides, top_k=5), distances, frames, frames)


if __name__ == "__main__":
    write_report(walkers(), Path("/tmp/walkers_report"))
