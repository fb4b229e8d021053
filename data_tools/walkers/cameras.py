"""The properties of a camera: view, scale, light, noise, softness, and the street in front of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from data_tools.walkers.people import Colour

Planes = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Camera:
    """``view`` is the usual angle (radians) between the walk and the picture plane: 0 from the side, pi/2 frontal.

    ``tilt`` is the downward angle (radians), ``scale`` is in pixels per metre, ``ground`` is the share of the picture
    above the walkers' feet, ``gain`` multiplies red, green and blue, ``light`` points to the light (across, up, to the
    viewer), ``ambient`` is the light in the shade, ``softness`` is the width of an edge in pixels, and ``noise`` is the
    standard deviation in grey levels.
    """

    view: float
    tilt: float
    scale: float
    ground: float
    gain: Colour
    light: tuple[float, float, float]
    ambient: float
    softness: float
    noise: float
    occluder: bool


def draw_camera(rng: np.random.Generator, number: int, cameras: int, pixels: tuple[float, float]) -> Camera:
    """Camera ``number`` of ``cameras``; ``pixels`` is the range of heights of a person of 1.75 m."""

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    cast = between(-0.035, 0.035)
    bright = between(0.92, 1.06)
    across = between(-0.6, 0.6)
    return Camera(
        view=float(np.radians(75.0 * number / (cameras - 1))),
        tilt=float(np.radians(between(2.0, 11.0))),
        scale=between(*pixels) / 1.75,
        ground=between(0.90, 0.95),
        gain=(bright * (1 + cast), bright, bright * (1 - cast)),
        light=(across, 0.45, float(np.sqrt(1.0 - across**2 - 0.45**2))),
        ambient=between(0.52, 0.62),
        softness=between(1.0, 1.9),
        noise=between(1.0, 3.5),
        occluder=bool(rng.random() < 0.6),
    )


@dataclass(frozen=True, slots=True)
class Street:
    """The street in front of a camera, three pictures wide, with its ends joined.

    ``planes_3HW`` is its colour, 0 to 255 before the camera's gain; ``cover_HW`` is 1 where something hides the
    walkers, 0 elsewhere.
    """

    planes_3HW: Planes
    cover_HW: Planes


@lru_cache(maxsize=4)
def draw_street(camera: Camera, seed: tuple[int, ...], width: int, height: int) -> Street:
    """The street in front of ``camera``, in muted colours, for pictures of ``width`` x ``height`` pixels."""
    rng = np.random.default_rng(seed)
    wide = 3 * width
    planes = np.empty((3, height, wide), np.float32)
    foot = int(height * (camera.ground - 0.13))  # where walls meet the pavement
    _pave(rng, planes, foot)
    left = 0
    while left < wide:
        right = left + int(camera.scale * rng.uniform(2.5, 5.0))
        right = right if wide - right > camera.scale else wide
        _build(rng, planes[:, :foot, left:right], camera.scale)
        left = right
    grain = rng.normal(0.0, 3.5, (height, wide)).astype(np.float32)
    planes += (grain + np.roll(grain, 1, axis=0) + np.roll(grain, 1, axis=1)) / 2
    if camera.softness > 1.4:
        planes = 0.5 * (planes + np.roll(planes, 1, 1))
        planes = 0.5 * (planes + np.roll(planes, 1, 2))
    cover = np.zeros((height, wide), np.float32)
    if camera.occluder:
        _stand_before(rng, planes, cover, camera)
    return Street(np.clip(planes, 0.0, 255.0), cover)


def _stone(rng: np.random.Generator, low: float, high: float) -> Planes:
    """A colour of sand or stone, (3, 1, 1): streets have no other colours, so that only clothes are colourful."""
    stone = np.array([1.0, 0.93, 0.83]) + rng.normal(0.0, 0.012, 3)
    return (rng.uniform(low, high) * stone).astype(np.float32)[:, None, None]


def _pave(rng: np.random.Generator, planes: Planes, foot: int) -> None:
    """Pavement slabs and a kerb."""
    height, wide = planes.shape[1:]
    depth = np.linspace(0.0, 1.0, height - foot, dtype=np.float32)[:, None]
    across = np.arange(wide, dtype=np.float32)[None]
    colour = _stone(rng, 138.0, 160.0)
    tiles = rng.integers(10, 16)
    lengthwise = np.abs((across * 2 * tiles / wide + 0.3 * depth) % 1.0 - 0.5) > 0.47
    crosswise = (3.0 * depth) ** 0.7 % 1.0 < 0.09
    planes[:, foot:] = colour * (0.86 + 0.14 * depth) - 14.0 * (lengthwise | crosswise)
    planes[:, foot : foot + 2] = colour * 0.7


def _build(rng: np.random.Generator, wall: Planes, scale: float) -> None:
    """One house front, (3, H, W): brick courses, a door two metres high or windows, a darker edge."""
    height, width = wall.shape[1:]
    colour = _stone(rng, 150.0, 190.0)
    wall[:] = colour * np.linspace(1.04, 0.94, height, dtype=np.float32)[:, None]
    course = max(3, int(0.22 * scale))
    wall[:, height % course :: course] *= 0.95
    wall[:, :, :1] *= 0.75
    pane = _stone(rng, 75.0, 100.0)
    left, top = int(rng.uniform(0.15, 0.3) * width), height - int(2.05 * scale)
    opening = int(0.95 * scale)
    if rng.random() < 0.5:
        _open(wall, slice(max(top, 0), height), slice(left, left + opening), _stone(rng, 90.0, 125.0))
    else:
        _open(wall, slice(max(top, 0), height - int(0.9 * scale)), slice(left, left + opening), pane)
    if width > 2.6 * opening:
        right = left + int(1.5 * opening)
        _open(wall, slice(max(top, 0), height - int(0.9 * scale)), slice(right, right + int(0.8 * opening)), pane)


def _open(wall: Planes, rows: slice, columns: slice, colour: Planes) -> None:
    """A door or window in a light frame."""
    wall[:, max(rows.start - 1, 0) : rows.stop, max(columns.start - 1, 0) : columns.stop + 1] *= 1.12
    shine = np.linspace(1.15, 0.9, rows.stop - rows.start, dtype=np.float32)[:, None]
    wall[:, rows, columns] = colour * shine


def _stand_before(rng: np.random.Generator, planes: Planes, cover: Planes, camera: Camera) -> None:
    """Lamp posts and low bollards between the camera and the walkers."""
    height, wide = cover.shape
    colour = _stone(rng, 45.0, 90.0)
    foot = int(height * min(camera.ground + 0.04, 0.99))
    for centre in np.arange(rng.uniform(0.2, 1.0) * wide / 4, wide, wide / 4):
        post = rng.random() < 0.4
        half = (0.05 if post else 0.09) * camera.scale
        top = 0 if post else foot - int(0.75 * camera.scale)
        across = np.arange(wide, dtype=np.float32) - np.float32(centre)
        edge = np.clip(half + 0.5 - np.abs(across), 0.0, 1.0)
        planes[:, top:foot] += edge * (colour * (1.1 - 0.5 * np.clip(across / half, -1, 1)) - planes[:, top:foot])
        cover[top:foot] = np.maximum(cover[top:foot], edge)
