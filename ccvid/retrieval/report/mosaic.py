"""Making faces unrecognisable: the heads in a picture are replaced by a few cells of one colour each.

The region of a head becomes six cells, each with the mean colour of its pixels: all that is left of it are 18 numbers,
also of the clothes and the background around it. Only then is the picture encoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

from ccvid.config import ReportOptions
from ccvid.retrieval.report.film_strip import HEIGHT, Picture
from ccvid.retrieval.report.head_detector import HeadDetector, read_detector
from data_tools.datasets.released import RELEASED_SETS
from data_tools.shards import ShardFolder

Boxes = npt.NDArray[np.float64]
"""Left, top, width and height in pixels (N, 4); they may leave the picture."""

CELLS = (3, 2)
"""Across and down."""
HEAD_SHARE = 1 / 3
"""Share of a person's box, from its top, that holds the head. The chin of a standing adult is 13 % of the height below
the crown (Drillis and Contini, 1966); in boxes with the usual margins it was found at 18 % on average and 25 % at most
(100 walkers, 19,440 boxes), and above 25 % in all of 60 boxes of TUD Campus and Stadtmitte."""
HEAD_PER_WIDTH = 2 / 3
"""The region is at least this high for a box's width, for people of whom only the upper part is seen."""
DETECTED_MARGIN = 0.25
"""Share of its size by which a detected box is widened on each side: detectors of faces leave out hair and chin."""


def mosaic_heads_(picture_HWC: Picture, boxes_N4: Boxes) -> None:
    """Hide the heads of people in a picture, RGB uint8 (H, W, 3), in place; ``boxes_N4`` are their whole bodies."""
    x_N, y_N, width_N, height_N = np.asarray(boxes_N4, np.float64).reshape(-1, 4).T
    head_N = np.minimum(np.maximum(HEAD_SHARE * height_N, HEAD_PER_WIDTH * width_N), height_N)
    mosaic_regions_(picture_HWC, np.stack([x_N, y_N, width_N, head_N], axis=1))


def mosaic_regions_(picture_HWC: Picture, regions_N4: Boxes) -> None:
    """Replace regions of a picture, RGB uint8 (H, W, 3), in place, by ``CELLS`` cells of their mean colours each."""
    height, width = picture_HWC.shape[:2]
    corner_N4 = np.concatenate([np.floor(regions_N4[:, :2]), np.ceil(regions_N4[:, :2] + regions_N4[:, 2:])], axis=1)
    corner_N4 = np.clip(corner_N4, 0, [width, height, width, height]).astype(np.int64)
    for left, top, right, bottom in corner_N4.tolist():
        columns, rows = (
            np.unique(np.linspace(low, high, count + 1).astype(np.int64)).tolist()
            for low, high, count in zip((left, top), (right, bottom), CELLS, strict=True)
        )
        for (cell_left, cell_right), (cell_top, cell_bottom) in product(pairwise(columns), pairwise(rows)):
            cell_HWC = picture_HWC[cell_top:cell_bottom, cell_left:cell_right]
            cell_HWC[:] = cell_HWC.mean(axis=(0, 1)).round()


@dataclass(frozen=True, slots=True)
class HeadHiding:
    """Whether and how heads are hidden in the crops of stored tracklets."""

    wanted: bool | None
    """None: where the licence of the data set asks for it."""
    detector: HeadDetector | None = None

    def applies_to(self, store: ShardFolder) -> bool:
        """Whether heads are hidden in pictures of these shards."""
        if self.wanted is not None:
            return self.wanted
        released = RELEASED_SETS.get(store.manifest.dataset)
        return released is not None and released.hide_faces

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the crops that :meth:`hide_` takes, in pixels."""
        return (HEIGHT, HEIGHT // 2) if self.detector is None else self.detector.frame_size

    def hide_(self, crops_THWC: Picture) -> None:
        """Hide the heads in crops of a person, uint8, in place: where the detector finds them, else the upper part."""
        for crop_HWC in crops_THWC:
            height, width = crop_HWC.shape[:2]
            found_N4 = np.empty((0, 4)) if self.detector is None else self.detector.find(crop_HWC)
            if len(found_N4):
                margin_N2 = DETECTED_MARGIN * found_N4[:, 2:]
                found_N4 = np.concatenate([found_N4[:, :2] - margin_N2, found_N4[:, 2:] + 2 * margin_N2], axis=1)
                mosaic_regions_(crop_HWC, found_N4)
            else:
                mosaic_heads_(crop_HWC, np.array([[0, 0, width, height]], np.float64))


def read_hiding(options: ReportOptions) -> HeadHiding:
    """What the recipe asks for.

    Raises:
        InputError: the detector cannot be used.
        OSError: it cannot be read.
    """
    if options.mosaic is not False and options.mosaic_detector is not None:
        return HeadHiding(True, read_detector(options.mosaic_detector))
    return HeadHiding(None if options.mosaic == "auto" else options.mosaic)
