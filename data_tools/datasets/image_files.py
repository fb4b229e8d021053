"""Image data sets: each picture is a tracklet of one frame, with person, camera and clothes in its file name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_tools.datasets.annotation_lines import reason_of
from data_tools.datasets.problems import ProblemLog
from data_tools.tracklet import ImageFrames, Split, Tracklet
from data_tools.wording import shown

TestPart = Literal["test", "val"]
"""The part to score, in a data set that has both."""

_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
_PERSON = re.compile(r"\d{1,9}", re.ASCII)
_NO_ATTRIBUTES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """A folder of pictures: its path, and its path below the data set's root, the prefix of the picture ids."""

    path: Path
    name: str
    split: Split

    def inner(self, name: str) -> PictureFolder:
        """A folder within this one."""
        return PictureFolder(self.path / name, f"{self.name}/{name}", self.split)

    def tracklet(
        self,
        picture: str,
        *,
        person: str,
        clothes: str | None,
        camera: str | None,
        attributes: Mapping[str, str] = _NO_ATTRIBUTES,
        origin: str | None = None,
    ) -> Tracklet:
        """The tracklet of one picture.

        Args:
            picture: its file name.
            person, clothes: labels as released; ``clothes`` None if unknown.
            camera: None makes each picture its own camera.
            attributes: anything else a protocol may need.
            origin: where it is listed, ``file:line``; None: the picture itself.
        """
        picture_id = f"{self.name}/{picture}"
        return Tracklet(
            id=picture_id,
            person=person,
            clothes=clothes,
            camera=picture_id if camera is None else camera,
            split=self.split,
            source=ImageFrames(self.path, (picture,)),
            frame_index=(0,),
            attributes=attributes,
            origin=origin or f"{self.path}/{picture}",
        )


def read_pictures(
    folder: PictureFolder, grammar: re.Pattern[str], expected: str, log: ProblemLog
) -> Iterator[re.Match[str]]:
    """The matched name of every picture in a folder, sorted by name.

    A picture whose name does not match ``grammar`` is an error that says what was ``expected``; hidden files and other
    files (Thumbs.db) are ignored. A folder that is missing or contains no pictures is an error.
    """
    names = list_names(folder.path, log)
    pictures = [name for name in names or () if name.lower().endswith(_PICTURE_SUFFIXES)]
    if names is not None and not pictures:
        log.error(folder.path, None, "contains no pictures")
    for picture in pictures:
        match = grammar.fullmatch(picture)
        if match is None:
            log.error(folder.path, None, f"picture {shown(picture)}, expected a name like {expected}")
        else:
            yield match


def read_person_folders(folder: PictureFolder, log: ProblemLog) -> Iterator[tuple[str, PictureFolder]]:
    """Person and folder of every subfolder, sorted by name; the name is the person's number."""
    names = list_names(folder.path, log, folders=True)
    if names is not None and not names:
        log.error(folder.path, None, "contains no person folders")
    for name in names or ():
        if _PERSON.fullmatch(name):
            yield name, folder.inner(name)
        else:
            log.error(folder.path, None, f"folder {shown(name)}, expected a person's number")


def list_names(folder: Path, log: ProblemLog, *, folders: bool = False) -> list[str] | None:
    """The sorted names of a folder's files, or of its subfolders, without hidden ones.

    None, with an error in the log, if it cannot be listed. scandir reports the type of each entry, so a million
    pictures need no stat call each.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir() == folders)
    except OSError as error:
        log.error(folder, None, f"cannot be listed: {reason_of(error)}")
        return None
