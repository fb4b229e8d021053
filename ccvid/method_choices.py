"""The methods that a recipe can name, a row each: all that names them is made from these rows.

A method's update is imported when it is built: reading a recipe needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ccvid.cluster_contrast_options import ClusterContrastOptions
from ccvid.csci_options import CsciOptions
from data_tools.options import Options


@dataclass(frozen=True, slots=True)
class Method:
    """How a method is called, built and chosen."""

    title: str
    """Its name in reports and messages."""
    builder: str
    """`module:function` within ccvid.training: see :class:`ccvid.training.passes.TrainingBuilder`."""
    options: type[Options] | None = None
    """Its own section of the recipe, `method.NAME`; None: it has none."""
    head_sizes: tuple[str, ...] = ()
    """Whole-number settings that make the method's heads smaller, for a network that does not fit."""
    labels: bool = True
    """Whether it needs person labels. One that does not gets each tracklet as a class of its own."""


METHODS: dict[str, Method] = {
    "cal": Method("CAL", "cal:build_cal_training"),
    "csci": Method("CSCI", "csci:build_csci_training", CsciOptions, ("method.csci.colours.bins",)),
    "cluster_contrast": Method(
        "cluster contrast", "cluster_contrast:build_cluster_contrast", ClusterContrastOptions, labels=False
    ),
}
