"""Which colours a picture shows, as vectors that a network learns to predict: CSCI's colour targets.

They are made from the batches that a network trains on, augmented as they are, on its device.

Shape letters: B pictures, C = 3 colours, H and W pixels, P pixels of a picture; h bins along an axis; E values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ccvid.colour_target_options import ColourPlanes, HistogramKind, target_size
from ccvid.losses.vectors import precise
from data_tools.transforms import IMAGENET_MEAN, IMAGENET_STD

FURTHEST = 3.0
"""The outermost centres of an RGB-uv histogram lie at log-ratios of -3 and 3; colours beyond only reach their tails."""
DARKEST = 1e-6
"""Added to a channel before its logarithm."""
CHUNK_VALUES = 2**22
"""Kernel values computed at a time: 16 MiB in float32. Fewer or many more are slower on a CPU."""


@dataclass(frozen=True, slots=True)
class ColourTarget:
    """Colour histograms of pictures, computed in batches as matrix products.

    `rgb_uv` is the histogram of Afifi and Brown (ICCV 2019) as CSCI uses it: a pixel's u and v are the log-ratios of
    one channel to each of the others, and it adds `k(u - centre) * k(v - centre)` to every bin of the channel's plane,
    with `k(d) = 1 / (1 + (d / sigma)^2)`. `rgb` counts pixels in h^3 equal bins of [0, 1); a pixel with a channel at 1
    is not counted, as in the released code. All pixels count alike, background and erased rectangles too.

    The colour loss ignores the scale of a target, so that of its scaling only what `range_scaled` subtracts matters.
    A histogram that is the same everywhere, or empty, becomes zeros where scaling would divide by zero; the colour loss
    passes no gradient for those.

    In float32, targets are within 1e-5 of float64's at sigma 0.02, within 5e-4 at 0.001, relative to the largest value.
    """

    planes: ColourPlanes
    """`three`: plane by plane, rows u; `mean`: their mean. Not used by `rgb`."""
    bins: int
    """h, 2 or more."""
    sigma: float
    """Above 0, in log-ratios. Not used by `rgb`."""
    range_scaled: bool
    """`(x - min) / (max - min)`; else `x / sum(x)`."""
    kind: HistogramKind = "rgb_uv"

    @property
    def size(self) -> int:
        """E."""
        return target_size(self.kind, self.planes, self.bins)

    @torch.no_grad()
    def __call__(self, frames_BCHW: Tensor) -> Tensor:
        """The targets, (B, E), in float64 for float64 pictures, else in float32; not slowed or rounded by autocast.

        `rgb_uv` takes the time of `3 * B * H * W * h` kernel values and of products of h^2 for each pixel and plane.
        `CHUNK_VALUES` kernel values are held at a time: beyond these, memory is that of pictures and targets.

        Args:
            frames_BCHW: (B, 3, H, W) RGB, uint8 or floating point in [0, 1]; values outside are cut to it for
                `rgb_uv` and not counted for `rgb`.
        """
        assert frames_BCHW.shape[1:-2] == (3,), f"got {frames_BCHW.shape = }"
        pixel_BCP = _in_unit_range(frames_BCHW).flatten(2)
        with torch.autocast(pixel_BCP.device.type, enabled=False):
            if self.kind == "rgb":
                return self._scaled(rgb_histogram(pixel_BCP, self.bins))
            plane_B3hh = rgb_uv_histogram(pixel_BCP, self.bins, self.sigma)
            return self._scaled((plane_B3hh if self.planes == "three" else plane_B3hh.mean(dim=1)).flatten(1))

    def _scaled(self, histogram_BE: Tensor) -> Tensor:
        if self.range_scaled:
            histogram_BE = histogram_BE - histogram_BE.amin(dim=1, keepdim=True)
            whole_B1 = histogram_BE.amax(dim=1, keepdim=True)
        else:
            whole_B1 = histogram_BE.sum(dim=1, keepdim=True)
        return histogram_BE / whole_B1.masked_fill(whole_B1 == 0, torch.inf)


def from_normalised(frames_BCHW: Tensor) -> Tensor:
    """Undo ImageNet's normalisation: floating-point frames (…, 3, H, W) back in [0, 1] terms, in at least float32."""
    frames_BCHW = precise(frames_BCHW)
    std_C11, mean_C11 = (frames_BCHW.new_tensor(of_C)[:, None, None] for of_C in (IMAGENET_STD, IMAGENET_MEAN))
    return frames_BCHW * std_C11 + mean_C11


def rgb_uv_histogram(pixel_BCP: Tensor, bins: int, sigma: float) -> Tensor:
    """A plane of log-ratios for each of R, G and B, (B, 3, h, h), rows u; the three sum to 1 (less 1e-6).

    With r = ln R - ln G, s = ln R - ln B and t = ln G - ln B, the planes' (u, v) are (r, s), (-r, t) and (-s, -t). The
    centres lie symmetrically around 0, so that kernels of -r are those of r with the bins reversed: they are made once.
    """
    centre_h = torch.linspace(-FURTHEST, FURTHEST, bins, dtype=pixel_BCP.dtype, device=pixel_BCP.device)
    red_BP, green_BP, blue_BP = pixel_BCP.clamp(0, 1).add(DARKEST).log().unbind(dim=1)
    ratio_B3P = torch.stack((red_BP - green_BP, red_BP - blue_BP, green_BP - blue_BP), dim=1)
    plane_3Bhh = pixel_BCP.new_zeros(3, len(pixel_BCP), bins, bins)
    for part_B3P in torch.split(ratio_B3P, max(1, CHUNK_VALUES // (3 * bins * len(pixel_BCP))), dim=2):
        kernel_B3hP = (part_B3P[:, :, None] - centre_h[:, None]).div_(sigma).square_().add_(1).reciprocal_()
        r_BhP, s_BhP, t_BhP = kernel_B3hP.unbind(dim=1)
        for plane_Bhh, u_BhP, v_BhP in zip(plane_3Bhh, (r_BhP, r_BhP, s_BhP), (s_BhP, t_BhP, t_BhP), strict=True):
            plane_Bhh.baddbmm_(u_BhP, v_BhP.mT)
    red_Bhh, green_Bhh, blue_Bhh = plane_3Bhh
    plane_B3hh = torch.stack((red_Bhh, green_Bhh.flip(1), blue_Bhh.flip(1, 2)), dim=1)
    return plane_B3hh / (plane_B3hh.sum(dim=(1, 2, 3), keepdim=True) + 1e-6)


def rgb_histogram(pixel_BCP: Tensor, bins: int) -> Tensor:
    """Counts of pixels, (B, h^3), at `R * h^2 + G * h + B` of their bins; pixels outside [0, 1) are not counted."""
    pictures, size = len(pixel_BCP), bins**3
    counted_BP = ((pixel_BCP >= 0) & (pixel_BCP < 1)).all(dim=1)
    red_BP, green_BP, blue_BP = (pixel_BCP * bins).long().clamp(0, bins - 1).unbind(dim=1)
    first_B1 = size * torch.arange(pictures, device=pixel_BCP.device)[:, None]
    place_BP = first_B1 + (red_BP * bins + green_BP) * bins + blue_BP
    counts = place_BP.masked_fill(~counted_BP, pictures * size).flatten().bincount(minlength=pictures * size + 1)
    return counts[:-1].view(pictures, size).to(pixel_BCP.dtype)


def _in_unit_range(frames_BCHW: Tensor) -> Tensor:
    return frames_BCHW / 255 if frames_BCHW.dtype == torch.uint8 else precise(frames_BCHW)
