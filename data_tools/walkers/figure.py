"""A dressed walker in front of a camera, as round-ended strokes in pixels, from back to front."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from data_tools.walkers.cameras import Camera
from data_tools.walkers.gait import SOLE, Floats, Skeleton
from data_tools.walkers.outfits import Fabric, Outfit
from data_tools.walkers.people import Colour, Hair, Person


@dataclass(frozen=True, slots=True)
class Skin:
    """Bare skin or plain leather."""

    colour: Colour


@dataclass(frozen=True, slots=True)
class Head:
    """A face with hair: ``hairline`` is the share of the head's height that hair covers at the (forehead, nape)."""

    skin: Colour
    hair: Colour
    hairline: tuple[float, float]
    beard: bool


Material = Skin | Fabric | Head

EYE = Skin((30.0, 26.0, 26.0))
HAIRLINES: dict[Hair, tuple[float, float]] = {
    "bald": (-1.0, -1.0), "short": (0.24, 0.78), "bob": (0.30, 1.10), "long": (0.30, 1.15), "bun": (0.26, 0.85),
    "ponytail": (0.26, 0.85), "round": (0.26, 0.95),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stroke:
    """A thick line in every frame: from ``start_T2`` to ``end_T2`` (x, y in pixels of the street), with half
    thicknesses ``start_radius_T`` and ``end_radius_T`` in pixels and ends flattened by the factor ``flat``.

    ``heading`` is the walker's direction: 0 to the right in the picture, pi/2 towards the viewer. ``tone`` darkens
    parts in the shade of the body.
    """

    start_T2: Floats
    end_T2: Floats
    start_radius_T: Floats
    end_radius_T: Floats
    material: Material
    heading: float
    pixels_per_metre: float
    flat: float = 1.0
    tone: float = 1.0

    def moved(self, offset: Floats) -> Stroke:
        """The same stroke elsewhere in the street."""
        return replace(self, start_T2=self.start_T2 + offset, end_T2=self.end_T2 + offset)

    def during(self, frames: slice) -> Stroke:
        """The stroke restricted to some frames."""
        return replace(
            self,
            start_T2=self.start_T2[frames],
            end_T2=self.end_T2[frames],
            start_radius_T=self.start_radius_T[frames],
            end_radius_T=self.end_radius_T[frames],
        )


@dataclass(frozen=True, slots=True)
class Pose:
    """The walker's place in the picture: ``origin_T2`` is the ground point below the body, ``scale_T`` is in pixels per
    metre."""

    camera: Camera
    heading: float
    origin_T2: Floats
    scale_T: Floats

    def project(self, points_T3: Floats) -> Floats:
        """Body coordinates (forward, left, up; metres) to street pixels, (T, 2)."""
        forward_T, left_T, up_T = points_T3.T
        across_T = forward_T * np.cos(self.heading) + left_T * np.sin(self.heading)
        nearer_T = forward_T * np.sin(self.heading) - left_T * np.cos(self.heading)
        down_T = nearer_T * np.sin(self.camera.tilt) - up_T * np.cos(self.camera.tilt)
        return self.origin_T2 + np.stack([across_T, down_T], axis=1) * self.scale_T[:, None]


class Figure:
    """Builds the strokes of one walker."""

    def __init__(self, person: Person, outfit: Outfit, skeleton: Skeleton, pose: Pose) -> None:
        self.person, self.outfit, self.skeleton, self.pose = person, outfit, skeleton, pose
        self.frontal = abs(float(np.sin(pose.heading)))
        self.skin = Skin(person.skin)

    def strokes(self) -> list[Stroke]:
        """Every stroke, farthest first."""
        sides = (self.skeleton.left, self.skeleton.right)
        far, near = sides if np.cos(self.pose.heading) > 0 else sides[::-1]
        beside = self.frontal >= 0.8  # both arms hang beside the trunk, none behind it
        hair_behind = np.sin(self.pose.heading) > -0.2 and self.person.hair != "bun"
        shade = 0.78 + 0.17 * self.frontal
        far_arm, loose_hair = list(self._arm(far, 0.95 if beside else shade)), list(self._loose_hair())
        return [
            *([] if beside else far_arm),
            *self._leg(far, shade),
            *self._leg(near, 1.0),
            *(loose_hair if hair_behind else []),
            *self._trunk(),
            *self._head(),
            *([] if hair_behind else loose_hair),
            *(far_arm if beside else []),
            *self._arm(near, 1.0),
        ]

    def _stroke(
        self,
        start_T3: Floats,
        end_T3: Floats,
        radii: tuple[float | Floats, float | Floats],
        material: Material,
        *,
        flat: float = 1.0,
        tone: float = 1.0,
    ) -> Stroke:
        """A stroke between two joints; ``radii`` in metres at either end."""
        scale_T = self.pose.scale_T
        return Stroke(
            self.pose.project(start_T3),
            self.pose.project(end_T3),
            radii[0] * scale_T,
            radii[1] * scale_T,
            material,
            self.pose.heading,
            float(scale_T.mean()),
            flat,
            tone,
        )

    def _arm(self, side: dict[str, Floats], tone: float) -> Iterator[Stroke]:
        thick, loose, top = self.person.limb, self.outfit.loose, self.outfit.top.sleeves()
        shoulder, elbow, wrist = side["shoulder"], side["elbow"], side["wrist"]
        bare = self.outfit.sleeve < 1.0
        arm: Material = self.skin if bare else top
        stuff = 0.003 if bare else loose
        yield self._stroke(shoulder, elbow, (0.051 * thick + stuff, 0.041 * thick + stuff), arm, tone=tone)
        yield self._stroke(elbow, wrist, (0.040 * thick + stuff, 0.030 * thick + stuff), arm, tone=tone)
        if bare:
            cuff = shoulder + (elbow - shoulder) * 2 * self.outfit.sleeve
            radii = (0.053 * thick + loose, 0.049 * thick + loose)
            yield self._stroke(shoulder, cuff, radii, top, flat=1.6, tone=tone)
        hand = thick**0.5
        yield self._stroke(wrist, side["fingers"], (0.034 * hand, 0.028 * hand), self.skin, tone=tone)

    def _leg(self, side: dict[str, Floats], tone: float) -> Iterator[Stroke]:
        thick, loose, cloth = self.person.limb, self.outfit.loose, self.outfit.cloth
        hip, knee, ankle = side["hip"], side["knee"], side["ankle"]
        bare = self.outfit.bottom != "trousers"
        leg: Material = self.skin if bare else cloth
        stuff = 0.0 if bare else loose
        shoe = Skin(self.outfit.shoes)
        yield self._stroke(side["heel"], side["toe"], (0.046, SOLE), shoe, flat=1.2, tone=0.95 * tone)
        yield self._stroke(knee, ankle, (0.057 * thick + stuff, 0.038 * thick + 1.4 * stuff), leg, tone=tone)
        yield self._stroke(hip, knee, (0.086 * thick + stuff, 0.058 * thick + stuff), leg, tone=tone)
        if self.outfit.bottom == "shorts":
            hem = hip + (knee - hip) * 0.75
            radii = (0.088 * thick + loose, 0.078 * thick + 2 * loose)
            yield self._stroke(hip, hem, radii, cloth, flat=2.5, tone=tone)

    def _trunk(self) -> Iterator[Stroke]:
        person, outfit, loose = self.person, self.outfit, self.outfit.loose
        pelvis, shoulders, chin = self.skeleton.pelvis, self.skeleton.shoulders, self.skeleton.chin
        shoulder = self._seen(person.shoulder, 1.1 * person.girth) + loose
        waist = self._seen(0.43 * (person.shoulder + person.hip), person.belly) + loose
        hip = self._seen(person.hip, 0.95 * person.belly) + loose
        neck = 0.055 * person.limb**0.7
        middle = pelvis + (shoulders - pelvis) * 0.42
        seat, hem = pelvis - [0.0, 0.0, 0.03], pelvis - [0.0, 0.0, outfit.hem - 0.05]
        if outfit.bottom in ("skirt", "dress"):
            yield self._skirt(hip, 0.62, outfit.cloth.tail())
        yield self._stroke(middle, seat, (waist, hip), outfit.cloth.tail(), flat=2.5)
        yield self._stroke(shoulders, chin, (1.06 * neck, 0.92 * neck), self.skin, tone=0.86)
        if outfit.hem > 0.15:
            yield self._skirt(1.05 * hip, outfit.hem / person.leg, outfit.top.tail())
        else:
            yield self._stroke(middle, hem, (waist, 1.03 * hip), outfit.top.tail(), flat=5.0)
        yield self._stroke(shoulders - [0.0, 0.0, 0.06], middle, (shoulder, waist), outfit.top, flat=3.2)

    def _skirt(self, hip: float, share: float, fabric: Fabric) -> Stroke:
        """A skirt or coat tail down to ``share`` of the leg, as wide as the stride needs."""
        bend = min(2 * share, 1.15)
        knees = [s["hip"] + (s["knee"] - s["hip"]) * bend for s in (self.skeleton.left, self.skeleton.right)]
        hem = 0.5 * (knees[0] + knees[1])
        hem[:, 2] = self.skeleton.pelvis[:, 2] - share * self.person.leg
        apart_T = np.abs((self.pose.project(knees[0]) - self.pose.project(knees[1]))[:, 0]) / self.pose.scale_T
        wide_T = np.maximum(1.1 * hip, 0.5 * apart_T + 0.07 * self.person.limb)
        return self._stroke(self.skeleton.pelvis, hem, (hip, wide_T), fabric, flat=7.0)

    def _head(self) -> Iterator[Stroke]:
        person, chin, crown = self.person, self.skeleton.chin, self.skeleton.crown
        half = 0.5 * person.head
        depth = half * min(1.0, person.head_breadth + 0.13)
        breadth = self._seen(half * person.head_breadth, depth)
        axis = (crown - chin) / person.head
        middle = chin + axis * (half - 0.02)
        if person.hair == "round":
            centre = crown - axis * 0.85 * half - [0.03, 0.0, 0.0]
            lift = axis * 0.15 * half
            yield self._stroke(centre + lift, centre - lift, (1.35 * half, 1.2 * half), Skin(person.hair_colour))
        if np.sin(self.pose.heading) > -0.3:
            bridge = middle + np.array([0.7 * depth, 0.0, 0.0])
            tip = middle + np.array([depth + 0.008, 0.0, -0.03])
            yield self._stroke(bridge, tip, (0.014, 0.02), self.skin, tone=0.95)
        face = Head(person.skin, person.hair_colour, HAIRLINES[person.hair], person.beard)
        top, bottom = middle + axis * (half - breadth + 0.02), middle - axis * (half - breadth)
        yield self._stroke(top, bottom, (breadth, 0.86 * breadth), face)
        for side in (-1.0, 1.0):
            look = np.array([0.88 * depth, side * 0.42 * half * person.head_breadth, 0.0])
            if look[0] * np.sin(self.pose.heading) - look[1] * np.cos(self.pose.heading) > 0.02:  # on the near side
                eye = middle + look + axis * 0.012
                yield self._stroke(eye, eye - axis * 0.008, (0.014, 0.014), EYE)

    def _loose_hair(self) -> Iterator[Stroke]:
        """Hair that hangs down or stands off the head."""
        person, chin, crown = self.person, self.skeleton.chin, self.skeleton.crown
        hair = Skin(person.hair_colour)
        side = 0.5 * person.head * person.head_breadth
        middle = 0.5 * (chin + crown)

        def behind(joint: Floats, back: float, below: float) -> Floats:
            return np.subtract(joint, [back * side, 0.0, below])

        if person.hair == "long":
            top, end = behind(middle, 0.35, 0.0), behind(chin, 0.75, 0.16)
            yield self._stroke(top, end, (1.02 * side, 0.85 * side), hair, flat=1.6)
        elif person.hair == "bob":
            top, end = behind(middle, 0.3, 0.0), behind(chin, 0.4, 0.0)
            yield self._stroke(top, end, (1.1 * side, 1.12 * side), hair, flat=2.5)
        elif person.hair == "bun":
            yield self._stroke(behind(crown, 0.75, 0.01), behind(crown, 0.75, -0.01), (0.062, 0.062), hair)
        elif person.hair == "ponytail":
            root = behind(crown, 1.1, 0.06)
            yield self._stroke(root, root - np.array([0.07, 0.0, 0.26]), (0.038, 0.022), hair)

    def _seen(self, width: float, depth: float) -> float:
        """The visible half width of an elliptic section with half axes ``width`` (across the body) and ``depth``."""
        return float(np.hypot(width * np.sin(self.pose.heading), depth * np.cos(self.pose.heading)))


def extent(strokes: list[Stroke]) -> npt.NDArray[np.float64]:
    """Left, top, right and bottom of everything drawn, (T, 4) in street pixels."""
    low = [np.minimum(s.start_T2 - s.start_radius_T[:, None], s.end_T2 - s.end_radius_T[:, None]) for s in strokes]
    high = [np.maximum(s.start_T2 + s.start_radius_T[:, None], s.end_T2 + s.end_radius_T[:, None]) for s in strokes]
    return np.concatenate([np.min(low, axis=0), np.max(high, axis=0)], axis=1)
