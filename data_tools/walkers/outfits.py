"""The properties of an outfit: garments, their cut, colours and patterns."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from data_tools.walkers.people import Colour

Pattern = Literal["plain", "hoops", "stripes", "checks", "dots", "block", "logo"]
Bottom = Literal["trousers", "shorts", "skirt", "dress"]

TOP_PATTERNS: tuple[Pattern, ...] = ("plain", "plain", "hoops", "stripes", "checks", "dots", "block", "logo")
BOTTOM_PATTERNS: tuple[Pattern, ...] = ("plain", "plain", "plain", "plain", "stripes", "checks")
BOTTOMS: tuple[Bottom, ...] = ("trousers", "trousers", "trousers", "shorts", "skirt", "dress")


@dataclass(frozen=True, slots=True)
class Fabric:
    """Two colours and their pattern; ``period`` is the pattern's repeat in metres."""

    colour: Colour
    second: Colour
    pattern: Pattern
    period: float

    def sleeves(self) -> Fabric:
        """The same cloth on the arms, without logo or second block."""
        return replace(self, pattern="plain") if self.pattern in ("logo", "block") else self

    def tail(self) -> Fabric:
        """The same cloth below the chest."""
        return replace(self, colour=self.second, pattern="plain") if self.pattern == "block" else self.sleeves()


@dataclass(frozen=True, slots=True)
class Outfit:
    """``sleeve`` is the covered share of the arm, ``hem`` how far the top falls below the hips (metres),
    ``loose`` how far the cloth stands off the body (metres)."""

    top: Fabric
    sleeve: float
    hem: float
    bottom: Bottom
    cloth: Fabric
    loose: float
    shoes: Colour


def draw_outfit(rng: np.random.Generator) -> Outfit:
    """Draw an outfit, independently of the person."""
    top = _fabric(rng, TOP_PATTERNS)
    bottom = BOTTOMS[rng.integers(len(BOTTOMS))]
    coat = bottom in ("trousers", "skirt") and rng.random() < 0.25
    return Outfit(
        top=top,
        sleeve=1.0 if coat or rng.random() < 0.5 else float(rng.uniform(0.25, 0.4)),
        hem=float(rng.uniform(0.25, 0.5)) if coat else float(rng.uniform(0.02, 0.1)),
        bottom=bottom,
        cloth=top if bottom == "dress" else _fabric(rng, BOTTOM_PATTERNS),
        loose=float(rng.uniform(0.004, 0.022)),
        shoes=_colour(rng),
    )


def _fabric(rng: np.random.Generator, patterns: tuple[Pattern, ...]) -> Fabric:
    return Fabric(_colour(rng), _colour(rng), patterns[rng.integers(len(patterns))], float(rng.uniform(0.09, 0.22)))


def _colour(rng: np.random.Generator) -> Colour:
    """Any hue, mostly saturated; a quarter are greys from black to white."""
    hue, value = rng.random(), rng.uniform(0.25, 0.95)
    saturation = rng.uniform(0.0, 0.1) if rng.random() < 0.25 else rng.uniform(0.45, 0.95)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return 255.0 * red, 255.0 * green, 255.0 * blue
