"""Painting strokes: signed distances, soft edges, light and cloth patterns, for all frames at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_tools.walkers.cameras import Camera, Planes
from data_tools.walkers.figure import Head, Skin, Stroke
from data_tools.walkers.gait import Floats
from data_tools.walkers.outfits import Fabric
from data_tools.walkers.people import Colour

SHORTEST = 1e-6
"""Added to a stroke's squared length in pixels, which is zero when seen end on."""


def paint(canvas_3THW: Planes, corner_T2: npt.NDArray[np.int64], stroke: Stroke, camera: Camera) -> None:
    """Paint one stroke onto the canvas in place.

    ``corner_T2`` is the position of each frame's canvas in the street (x, y of its upper left pixel).
    """
    start_T2, end_T2 = stroke.start_T2 - corner_T2, stroke.end_T2 - corner_T2
    window = _window(stroke, start_T2, end_T2, canvas_3THW.shape)
    if window is None:
        return
    rows, columns = window
    y_1H1 = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5)[None, :, None]
    x_11W = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5)[None, None, :]
    start_x, start_y, axis_x, axis_y, first, last = (
        column.astype(np.float32)[:, None, None]
        for column in (*start_T2.T, *(end_T2 - start_T2).T, stroke.start_radius_T, stroke.end_radius_T)
    )
    length = np.sqrt(axis_x**2 + axis_y**2 + np.float32(SHORTEST))
    axis_x, axis_y = axis_x / length, axis_y / length
    along = (x_11W - start_x) * axis_x + (y_1H1 - start_y) * axis_y  # pixels down the axis
    across = (x_11W - start_x) * axis_y - (y_1H1 - start_y) * axis_x  # to the right of it where it points down
    within = np.clip(along, 0.0, length)
    radius = first + within * ((last - first) / length)
    over = (along - within) * np.float32(stroke.flat)
    distance = np.sqrt(across * across + over * over) - radius
    cover = np.clip(0.5 - distance * np.float32(1.0 / camera.softness), 0.0, 1.0)
    side = np.clip(across / radius, -1.0, 1.0)
    out = np.sqrt(1.0 - side * side)  # the surface's turn towards the viewer
    light_x, light_y, light_z = camera.light
    shade, sun = stroke.tone * camera.ambient, stroke.tone * (1.05 - camera.ambient)
    lit = side * (axis_y * light_x + axis_x * light_y) + out * np.float32(light_z)
    lit = np.float32(shade) + np.float32(sun) * np.maximum(lit, 0.0)
    base, second, share = _surface(stroke, along, side, out, length, radius)
    for channel in range(3):
        plane = canvas_3THW[channel, :, rows, columns]
        colour = lit * (base[channel] if share is None else base[channel] + (second[channel] - base[channel]) * share)
        plane += cover * (colour - plane)


def _window(stroke: Stroke, start_T2: Floats, end_T2: Floats, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
    """The rows and columns of the canvas that the stroke touches in any frame."""
    radius = np.maximum(stroke.start_radius_T, stroke.end_radius_T)[:, None] + 1.5
    low = np.floor((np.minimum(start_T2, end_T2) - radius).min(axis=0)).astype(int)
    high = np.ceil((np.maximum(start_T2, end_T2) + radius).max(axis=0)).astype(int)
    left, top = np.maximum(low, 0)
    right, bottom = np.minimum(high, (shape[3], shape[2]))
    return (slice(top, bottom), slice(left, right)) if right > left and bottom > top else None


def _surface(
    stroke: Stroke, along: Planes, side: Planes, out: Planes, length: Planes, radius: Planes
) -> tuple[Colour, Colour, Planes | None]:
    """Two colours and the share of the second at every pixel (None: only the first)."""
    material = stroke.material
    if isinstance(material, Skin) or (isinstance(material, Fabric) and material.pattern == "plain"):
        return material.colour, material.colour, None
    cosine, sine = np.float32(np.cos(stroke.heading)), np.float32(np.sin(stroke.heading))
    forward = side * cosine + out * sine  # 1 where the surface faces the walking direction, -1 at the back
    left = side * sine - out * cosine
    if isinstance(material, Head):
        return _head(material, (along + radius) / (length + 2 * radius), forward)
    metre = np.float32(1.0 / stroke.pixels_per_metre)
    return material.colour, material.second, _weave(material, along, forward, left, length, radius, metre)


def _head(head: Head, down: Planes, forward: Planes) -> tuple[Colour, Colour, Planes]:
    """Hair over the skull and beard; ``down`` goes from 0 at the crown to 1 at the chin."""
    brow, nape = head.hairline
    line = np.float32((brow + nape) / 2) - forward * np.float32((nape - brow) / 2)
    hair = np.clip((line - down) * 12.0 + 0.5, 0.0, 1.0)
    if head.beard:
        hair = np.maximum(hair, 0.85 * np.clip((down - 0.68) * 10.0, 0.0, 1.0) * (forward > -0.1))
    return head.skin, head.hair, hair


def _weave(
    fabric: Fabric, along: Planes, forward: Planes, left: Planes, length: Planes, radius: Planes, metre: np.float32
) -> Planes:
    """The pattern, fixed to the body: ``along`` the stroke and around it."""
    turn = metre * np.float32(2 * np.pi / fabric.period)
    if fabric.pattern == "hoops":
        return _bands(along * turn)
    if fabric.pattern == "block":
        return np.broadcast_to(np.clip((along / length - 0.5) * 12.0 + 0.5, 0.0, 1.0), left.shape)
    if fabric.pattern == "logo":
        below = (along - 0.3 * length) * (metre / np.float32(0.09))
        return np.clip(2.0 - (left / 0.45) ** 2 - below**2 - 9.0 * (forward < 0.0), 0.0, 1.0)
    around = np.arctan2(left, forward) * (radius * turn)
    if fabric.pattern == "stripes":
        return _bands(around)
    if fabric.pattern == "checks":
        crossed: Planes = 0.5 * (_bands(around) + _bands(along * turn))
        return crossed
    dots: Planes = 3.0 * np.sin(around) * np.sin(along * turn)
    return np.clip(dots, 0.0, 1.0)


def _bands(angle: Planes) -> Planes:
    return np.clip(0.5 + 1.5 * np.sin(angle), 0.0, 1.0)
