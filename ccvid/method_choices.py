"""The methods that a recipe can name, a row each: all that names them is made from these rows.

A method's update is imported when it is built: reading a recipe needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from ccvid.csci_options import CsciOptions
from data_tools.options import Options

if TYPE_CHECKING:
    from ccvid.training.passes import TrainingBuilder


@dataclass(frozen=True, slots=True)
class Method:
    """How a method is called, built and chosen."""

    title: str
    """Its name in reports and messages."""
    builder: str
    """`module:function` within ccvid.training: see :class:`ccvid.training.passes.TrainingBuilder`."""
    options: type[Options] | None = None
    """Its own section of the recipe, `method.NAME`; None: it has none."""

    def resolve(self) -> TrainingBuilder:
        """The function that builds it."""
        builder: TrainingBuilder = resolve_name(f"ccvid.training.{self.builder}")
        return builder


METHODS: dict[str, Method] = {
    "cal": Method("CAL", "cal:build_cal_training"),
    "csci": Method("CSCI", "csci:build_csci_training", CsciOptions),
}
