"""The properties of a person that stay when the clothes change: body, gait, head, hair, skin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Colour = tuple[float, float, float]
"""Red, green, blue, 0 to 255, before the camera's light."""

Hair = Literal["bald", "short", "bob", "long", "bun", "ponytail", "round"]

SKINS: tuple[Colour, ...] = (
    (246, 214, 190), (232, 190, 160), (214, 166, 130), (184, 130, 94), (146, 98, 66), (106, 70, 50), (76, 50, 38),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (22, 18, 18), (56, 36, 24), (98, 62, 34), (152, 104, 56), (214, 178, 110), (160, 70, 36), (150, 150, 152),
    (226, 224, 220),
)  # fmt: skip
HAIR_STYLES: tuple[Hair, ...] = ("bald", "short", "bob", "long", "bun", "ponytail", "round")


@dataclass(frozen=True, slots=True)
class Person:
    """Lengths in metres, angles in radians, ``cadence`` in full strides (two steps) per second.

    ``girth`` and ``belly`` are half depths of the trunk seen from the side; ``shoulder`` and ``hip`` are half widths
    seen from the front; ``limb`` scales the thickness of arms and legs. ``lean`` bends the trunk forward, ``stoop`` the
    head; ``spread`` holds the arms off the trunk.
    """

    height: float
    head: float
    head_breadth: float
    neck: float
    leg: float
    arm: float
    shoulder: float
    hip: float
    girth: float
    belly: float
    limb: float
    foot: float
    cadence: float
    swing: float
    knee: float
    arm_swing: float
    elbow: float
    lean: float
    stoop: float
    spread: float
    stance: float
    sway: float
    skin: Colour
    hair: Hair
    hair_colour: Colour
    beard: bool


def draw_person(rng: np.random.Generator) -> Person:
    """Draw a person; traits are independent, over ranges that are visible at 64 x 32 pixels."""

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    height = between(1.50, 2.0)
    weight = between(-1.0, 1.0)  # slim to stout: makes trunk and limbs thick together
    hair = HAIR_STYLES[rng.integers(len(HAIR_STYLES))]
    return Person(
        height=height,
        head=between(0.215, 0.285),
        head_breadth=between(0.66, 0.88),
        neck=between(0.03, 0.085),
        leg=height * between(0.44, 0.545),
        arm=height * between(0.29, 0.375),
        shoulder=height * (between(0.100, 0.140) + 0.008 * weight),
        hip=height * (between(0.078, 0.112) + 0.012 * weight),
        girth=height * (between(0.056, 0.076) + 0.010 * weight),
        belly=height * (between(0.056, 0.084) + 0.020 * weight),
        limb=between(0.88, 1.12) + 0.26 * weight,
        foot=between(0.21, 0.30),
        cadence=between(0.7, 1.15),
        swing=between(0.24, 0.52),
        knee=between(0.55, 1.25),
        arm_swing=between(0.08, 0.70),
        elbow=between(0.05, 1.35),
        lean=between(-0.08, 0.24),
        stoop=between(-0.10, 0.55),
        spread=between(0.03, 0.30),
        stance=between(0.04, 0.10),
        sway=between(0.0, 0.05),
        skin=_near(rng, SKINS[rng.integers(len(SKINS))], 6.0),
        hair=hair,
        hair_colour=_near(rng, HAIRS[rng.integers(len(HAIRS))], 6.0),
        beard=hair in ("bald", "short", "round") and bool(rng.random() < 0.35),
    )


def _near(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    red, green, blue = np.clip(np.asarray(colour) + rng.normal(0.0, spread, 3), 0.0, 255.0)
    return float(red), float(green), float(blue)
