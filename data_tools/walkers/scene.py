"""One video's walker in its street: pose, boxes and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_tools.tracklet import Box
from data_tools.walkers.cameras import Camera, Planes, Street, draw_street
from data_tools.walkers.figure import Figure, Pose, Stroke, extent
from data_tools.walkers.gait import Floats, walk
from data_tools.walkers.painting import paint
from data_tools.walkers.plan import Draw, WalkerVideo

Picture = npt.NDArray[np.uint8]

BLOCK = 32
"""Frames painted at once, to bound the memory of a long walk."""
GRAIN_SHIFT = 32
"""The same noise is added to every frame, shifted by up to this many pixels."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A walker's strokes in street pixels, and the view of the camera.

    ``left_T`` is the street column of the picture's left edge in every frame: the camera follows a walk that is
    longer than the picture. ``extent_T4`` bounds the walker: left, top, right, bottom in street pixels.
    """

    job: WalkerVideo
    camera: Camera
    strokes: list[Stroke]
    origin_T2: Floats
    left_T: npt.NDArray[np.int64]
    extent_T4: Floats

    def street(self) -> Street:
        """The street in front of the camera, without the walker."""
        options = self.job.options
        seed = (options.seed, Draw.STREET, self.job.camera)
        return draw_street(self.camera, seed, options.picture_width, options.picture_height)


def set_scene(job: WalkerVideo) -> Scene:
    """The walk of one video, without drawing it."""
    options, camera, rng = job.options, job.draw_camera(), job.random(Draw.WALK)
    person = job.draw_person()
    skeleton = walk(person, np.arange(options.frames) / options.frames_per_second, rng.uniform(0, 2 * np.pi))
    heading = camera.view + rng.uniform(-0.17, 0.17)
    if rng.random() < 0.5:
        heading = np.pi - heading  # to the left
    if rng.random() < 0.5:
        heading = -heading  # away from the camera
    travel_T = skeleton.travel_T - skeleton.travel_T.mean()
    nearer_T = np.tanh(travel_T * np.sin(heading) / 3.0)
    scale_T = camera.scale * rng.uniform(0.95, 1.05) * np.exp(0.10 * nearer_T)
    across_T = travel_T * np.cos(heading) * scale_T
    ground_T = options.picture_height * camera.ground + 0.3 * options.picture_height * (scale_T / camera.scale - 1.0)
    ground_T = np.minimum(ground_T, options.picture_height - 3.0)
    pose = Pose(camera, float(heading), np.stack([across_T, ground_T], axis=1), scale_T)
    strokes = Figure(person, job.draw_outfit(), skeleton, pose).strokes()
    bounds_T4 = extent(strokes)
    shift, left_T = _look(bounds_T4, options.picture_width, rng)
    moved = np.array([shift, 0.0])
    strokes = [stroke.moved(moved) for stroke in strokes]
    return Scene(job, camera, strokes, pose.origin_T2 + moved, left_T, bounds_T4 + np.array([shift, 0.0, shift, 0.0]))


def _look(bounds_T4: Floats, width: int, rng: np.random.Generator) -> tuple[float, npt.NDArray[np.int64]]:
    """The shift of the walk along the street, and the picture's left edge in every frame."""
    low, high = bounds_T4[:, 0].min(), bounds_T4[:, 2].max()
    margin = 0.05 * width
    start = rng.uniform(0.0, 3.0) * width
    if high - low <= width - 2 * margin:
        place = rng.uniform(margin, width - margin - (high - low))
        return start + place - low, np.full(len(bounds_T4), int(start))
    middle_T = 0.5 * (bounds_T4[:, 0] + bounds_T4[:, 2]) + start
    steady_T = np.linspace(middle_T[0], middle_T[-1], len(middle_T))
    return start, np.round(steady_T - width / 2).astype(np.int64)


def boxes(scene: Scene) -> tuple[Box, ...]:
    """A tracker's box for every frame (x, y, width, height in picture pixels, rounded to a tenth of a pixel).

    It contains the walker with a margin of 2 to 6 %, and is at least half as wide as high, like trackers' boxes of
    upright people, so that body width remains visible when a crop is scaled to 2:1.
    """
    rng = scene.job.random(Draw.BOXES)
    found: list[Box] = []
    for (left, top, right, bottom), edge in zip(scene.extent_T4, scene.left_T, strict=True):
        high = (bottom - top) * rng.uniform(1.04, 1.09)
        middle = 0.5 * (left + right) - edge + rng.uniform(-0.008, 0.008) * high
        wide = max(0.5 * high, (right - left) * 1.02 + 0.02 * high)
        upper = top - (high - (bottom - top)) * rng.uniform(0.4, 0.6)
        x, y, w, h = (round(float(value), 1) for value in (middle - wide / 2, upper, wide, high))
        found.append((x, y, w, h))
    return tuple(found)


def pictures(scene: Scene) -> Iterator[Picture]:
    """The video's frames, (H, W, 3) uint8 RGB."""
    options, camera, rng = scene.job.options, scene.camera, scene.job.random(Draw.GRAIN)
    width, height = options.picture_width, options.picture_height
    street = scene.street()
    gain = np.asarray(camera.gain, np.float32)[:, None, None]
    grain = rng.normal(0.0, camera.noise, (height + GRAIN_SHIFT, width + GRAIN_SHIFT)).astype(np.float32)
    corner_T2, wide = _canvas(scene)
    for first in range(0, options.frames, BLOCK):
        block = slice(first, min(first + BLOCK, options.frames))
        canvas_3THW = _draw_walker(scene, street, corner_T2, wide, block)
        for frame in range(block.start, block.stop):
            edge, (x, y) = scene.left_T[frame], corner_T2[frame]
            planes = _columns(street.planes_3HW, edge, width)
            planes[:, y:, x - edge : x - edge + wide] = canvas_3THW[:, frame - first]
            down, right = rng.integers(0, GRAIN_SHIFT, 2)
            planes = planes * gain + grain[down : down + height, right : right + width]
            yield np.clip(planes, 0.0, 255.0).astype(np.uint8).transpose(1, 2, 0)


def _columns(street: Planes, left: int, width: int) -> Planes:
    """``width`` columns of the street from ``left``, wrapping around its ends."""
    columns: Planes = street.take(np.arange(left, left + width) % street.shape[-1], axis=-1)
    return columns


def _canvas(scene: Scene) -> tuple[npt.NDArray[np.int64], int]:
    """The part of each picture that the walker can cover: its upper left corners (street pixels) and its width.

    It extends to the picture's lower edge.
    """
    bounds_T4, width = scene.extent_T4, scene.job.options.picture_width
    wide = min(width, int(np.ceil((bounds_T4[:, 2] - bounds_T4[:, 0]).max())) + 6)
    left_T = np.clip(np.floor(bounds_T4[:, 0]).astype(np.int64) - 3, scene.left_T, scene.left_T + width - wide)
    top = max(0, int(np.floor(bounds_T4[:, 1].min())) - 3)
    return np.stack([left_T, np.full_like(left_T, top)], axis=1), wide


def _draw_walker(scene: Scene, street: Street, corner_T2: npt.NDArray[np.int64], wide: int, block: slice) -> Planes:
    """The canvas of each frame of ``block``, (3, T, H, W): street, shadow, walker, and objects in front."""
    corner_T2 = corner_T2[block]
    top = corner_T2[0, 1]
    behind = np.stack([_columns(street.planes_3HW[:, top:], left, wide) for left in corner_T2[:, 0]], axis=1)
    cover = np.stack([_columns(street.cover_HW[top:], left, wide) for left in corner_T2[:, 0]])
    canvas = behind.copy()
    _shade_ground(canvas, scene.origin_T2[block] - corner_T2, scene.camera)
    for stroke in scene.strokes:
        paint(canvas, corner_T2, stroke.during(block), scene.camera)
    return canvas + cover * (behind - canvas)


def _shade_ground(canvas_3THW: Planes, origin_T2: Floats, camera: Camera) -> None:
    """A soft shadow below the walker."""
    height, width = canvas_3THW.shape[2:]
    x_T1W = (np.arange(width) - origin_T2[:, :1])[:, None].astype(np.float32) / np.float32(0.42 * camera.scale)
    y_TH1 = (np.arange(height) - origin_T2[:, 1:])[:, :, None].astype(np.float32) / np.float32(0.11 * camera.scale)
    canvas_3THW *= 1.0 - 0.42 * np.clip(1.0 - x_T1W**2 - y_TH1**2, 0.0, 1.0)
