"""The released data sets, a row each: all that names them is made from these rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_tools.datasets.ccvid import CcvidOptions, read_ccvid
from data_tools.datasets.deepchange import DeepChangeOptions, read_deepchange
from data_tools.datasets.last import LastOptions, read_last
from data_tools.datasets.ltcc import read_ltcc
from data_tools.datasets.mevid import MevidOptions, read_mevid
from data_tools.datasets.prcc import read_prcc
from data_tools.datasets.problems import Dataset
from data_tools.datasets.vc_clothes import read_vc_clothes
from data_tools.options import Options
from data_tools.wording import listed

Unit = Literal["tracklets", "images"]


@dataclass(frozen=True, slots=True)
class ReleasedSet:
    """One data set as its authors released it."""

    title: str
    """Its name as the authors write it."""
    reader: Callable[..., Dataset]
    """Reads a folder; takes an instance of ``options`` too, if the row has them."""
    holds: str
    """A file or folder by which the data set's folder is known."""
    unit: Unit
    """What was released; an image becomes a tracklet of one frame."""
    options: type[Options] | None = None
    """How it is read, a section of the recipe's data; every field has a default."""
    hide_faces: bool = False
    """Whether its licence asks that faces in what is shown be made unrecognisable."""
    licence: str | None = None
    """What its authors ask, as far as it is known here; None: not known here."""

    def read(self, root: Path, options: Options | None) -> Dataset:
        """Read the data set below ``root``.

        Raises:
            InputError: ``root`` is no folder.
        """
        return self.reader(root) if self.options is None else self.reader(root, options)


HIDDEN_FACES = "faces must be unrecognisable in what is shown; its other terms are not stated here"
UNSTATED = "not stated here, see the authors' page"

RELEASED_SETS: dict[str, ReleasedSet] = {
    "ccvid": ReleasedSet(
        "CCVID", read_ccvid, "train.txt", "tracklets", CcvidOptions, hide_faces=True, licence=HIDDEN_FACES
    ),
    "mevid": ReleasedSet("MEVID", read_mevid, "train_name.txt", "tracklets", MevidOptions),
    "ltcc": ReleasedSet("LTCC", read_ltcc, "train", "images"),
    "prcc": ReleasedSet("PRCC", read_prcc, "rgb", "images"),
    "vc_clothes": ReleasedSet("VC-Clothes", read_vc_clothes, "train", "images"),
    "deepchange": ReleasedSet("DeepChange", read_deepchange, "train-set", "images", DeepChangeOptions),
    "last": ReleasedSet("LaST", read_last, "train", "images", LastOptions),
}
"""By ``data.kind``."""


def kinds_of(unit: Unit) -> list[str]:
    """The kinds of which that was released."""
    return [kind for kind, row in RELEASED_SETS.items() if row.unit == unit]


def licence_of(kind: str) -> str:
    """The licence of the data of a ``data.kind``, as its authors state it, or that it is not known here."""
    if kind == "synthetic":
        return "rendered by this project; shows nobody"
    released = RELEASED_SETS.get(kind)
    if released is None:
        return "your own data"
    return released.licence or UNSTATED


def listed_roots() -> str:
    """What the folder of each data set holds: ``train.txt (CCVID), train (LTCC, LaST) or rgb (PRCC)``."""
    titles: dict[str, list[str]] = {}
    for row in RELEASED_SETS.values():
        titles.setdefault(row.holds, []).append(row.title)
    return listed((f"{file} ({', '.join(sets)})" for file, sets in titles.items()), "or")
