"""Options for a set of synthetic walkers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from data_tools.options import Options, Rare

HEADROOM = 1.4
"""Picture height a tall person near the camera needs, in heights of a person of 1.75 m."""


class WalkerOptions(Options):
    """A synthetic clothes-changing set: every person walks in every outfit before several cameras."""

    seed: Annotated[int, Rare()] = Field(default=1, ge=0, lt=2**32)
    """Seed of everything that is drawn."""
    train_people: int = Field(default=80, ge=1, le=100_000)
    """People in the training split."""
    test_people: int = Field(default=40, ge=0, le=100_000)
    """Other people, in the query and gallery splits."""
    outfits: Annotated[int, Rare()] = Field(default=5, ge=1, le=1_000)
    """Outfits of each training person."""
    test_outfits: Annotated[int, Rare()] = Field(default=4, ge=2, le=1_000)
    """Outfits of each test person; a clothes-changing match needs two."""
    cameras: Annotated[int, Rare()] = Field(default=4, ge=2, le=64)
    """Cameras, from a side view to a frontal one."""
    tracklets: Annotated[int, Rare()] = Field(default=2, ge=1, le=1_000)
    """Tracklets of each training person in each outfit, by different cameras as far as there are enough."""
    test_tracklets: Annotated[int, Rare()] = Field(default=2, ge=2, le=1_000)
    """Tracklets of each test person in each outfit: the first is a query, the others are gallery."""
    frames: int = Field(default=24, ge=1, le=100_000)
    """Frames of each tracklet."""
    frames_per_second: Annotated[int, Rare()] = Field(default=12, ge=1, le=120)
    """Frame rate of the videos. People walk in real time, so a lower rate makes longer steps between frames."""
    picture_width: Annotated[int, Rare()] = Field(default=224, ge=64, le=4_096, multiple_of=2)
    """Width of the videos in pixels."""
    picture_height: Annotated[int, Rare()] = Field(default=128, ge=64, le=4_096, multiple_of=2)
    """Height of the videos in pixels."""
    person_pixels_min: Annotated[float, Rare()] = Field(default=68, ge=24)
    """Smallest height in pixels of a person of 1.75 m. Each camera has its own, between the two."""
    person_pixels_max: Annotated[float, Rare()] = Field(default=88, ge=24)
    """Largest height in pixels of a person of 1.75 m."""

    @model_validator(mode="after")
    def _people_fit_the_picture(self) -> WalkerOptions:
        if self.person_pixels_max < self.person_pixels_min:
            raise ValueError(
                f"person_pixels_max {self.person_pixels_max} is below person_pixels_min {self.person_pixels_min}"
            )
        if self.person_pixels_max > (most := self.picture_height / HEADROOM):
            raise ValueError(
                f"person_pixels_max {self.person_pixels_max} is too large for picture_height {self.picture_height}: "
                f"expected at most {most:.0f}, so that tall people fit"
            )
        if self.picture_width < self.picture_height:
            raise ValueError(
                f"picture_width {self.picture_width} is below picture_height {self.picture_height}: "
                "pictures must not be taller than wide"
            )
        return self
