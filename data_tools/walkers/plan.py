"""The plan of a set of walkers: which person walks in which outfit under which camera, and the splits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import product

import numpy as np

from data_tools.tracklet import Split
from data_tools.walkers.cameras import Camera, draw_camera
from data_tools.walkers.options import WalkerOptions
from data_tools.walkers.outfits import Outfit, draw_outfit
from data_tools.walkers.people import Person, draw_person


class Draw(IntEnum):
    """The purpose of a private random generator: the second number of its seed, after the set's seed."""

    PERSON = 0
    OUTFIT = 1
    CAMERA = 2
    WALK = 3
    STREET = 4
    PLAN = 5
    BOXES = 6
    GRAIN = 7


@dataclass(frozen=True, slots=True)
class WalkerVideo:
    """One video of one walker: everything needed to render it. ``take`` counts a person's videos in an outfit."""

    person: int
    outfit: int
    take: int
    camera: int
    split: Split
    options: WalkerOptions

    @property
    def name(self) -> str:
        """The file's stem, unique within the set."""
        return f"p{self.person:05d}_o{self.outfit:03d}_t{self.take:03d}_c{self.camera:02d}"

    def random(self, draw: Draw) -> np.random.Generator:
        """The generator for properties of this video alone."""
        return np.random.default_rng([self.options.seed, draw, self.person, self.outfit, self.take])

    def draw_person(self) -> Person:
        return draw_person(np.random.default_rng([self.options.seed, Draw.PERSON, self.person]))

    def draw_outfit(self) -> Outfit:
        return draw_outfit(np.random.default_rng([self.options.seed, Draw.OUTFIT, self.person, self.outfit]))

    def draw_camera(self) -> Camera:
        options = self.options
        rng = np.random.default_rng([options.seed, Draw.CAMERA, self.camera])
        pixels = (options.person_pixels_min, options.person_pixels_max)
        return draw_camera(rng, self.camera, options.cameras, pixels)


def plan_walkers(options: WalkerOptions) -> tuple[WalkerVideo, ...]:
    """Every video of the set, in a fixed order: training people first.

    Training people wear every outfit under ``tracklets`` cameras, in turn. A test person's queries, in every outfit,
    are under one camera, which varies between people; their gallery tracklets are only under the other cameras. So
    every query has same-clothes and clothes-changing matches that are not junk (same person, same camera).
    """
    jobs: list[WalkerVideo] = []
    for person in range(options.train_people + options.test_people):
        shuffled = np.random.default_rng([options.seed, Draw.PLAN, person]).permutation(options.cameras)
        first, *others = map(int, shuffled)
        if person < options.train_people:
            for outfit, take in product(range(options.outfits), range(options.tracklets)):
                camera = (first, *others)[(outfit + take) % options.cameras]
                jobs.append(WalkerVideo(person, outfit, take, camera, "train", options))
            continue
        for outfit in range(options.test_outfits):
            jobs.append(WalkerVideo(person, outfit, 0, first, "query", options))
            for take in range(1, options.test_tracklets):
                camera = others[(outfit + take) % len(others)]
                jobs.append(WalkerVideo(person, outfit, take, camera, "gallery", options))
    return tuple(jobs)
