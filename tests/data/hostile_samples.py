"""Input of the campaign of hostile inputs: valid files, which of them are mutated, and how the product reads them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.data.made_videos import make_video

OUTSIDE_FOLDER = "outside"
SECRET = f"{OUTSIDE_FOLDER}/secret"
"""A text and a video of this name next to the requested folder; no reader may open them, even if inputs name them."""
SECRET_SIZE = (34, 18)
SECRET_TEXT = "known to nobody\n"
REMOTE = "memory://hostile"
"""Where samples of remote data sets are put, in addition to the folder."""
MOST_BYTES = 512 * 2**20
"""How much the memory of a reader's processes may grow."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Valid files in a folder.

    ``read`` is given the folder. It raises the errors meant for users, or anything else if a promise was broken;
    where it returns, the input was read.
    """

    make: Callable[[Path], object]
    targets: tuple[str, ...]
    """Globs of the files to mutate."""
    read: Callable[[Path], object]
    seal: Callable[[Path], object] | None = None
    """Updates other files to fit the mutated ones (checksums), for half of the inputs."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Samples of one kind, and its share of the inputs in per cent."""

    share: float
    samples: Mapping[str, Sample]
    most_bytes: int = MOST_BYTES


class BrokenPromiseError(AssertionError):
    """A reader accepted what it promises to refuse, or read what it must not."""


def make_secret(folder: Path) -> None:
    """Write ``outside`` into a folder."""
    secret = folder / SECRET
    make_video(secret.with_suffix(".mp4"), 5, *SECRET_SIZE)
    secret.with_suffix(".txt").write_text(SECRET_TEXT)


def choose(rng: random.Random, kinds: Mapping[str, Kind]) -> tuple[str, str]:
    """The kind and the sample of an input."""
    kind = rng.choices(list(kinds), [kind.share for kind in kinds.values()])[0]
    return kind, rng.choice(list(kinds[kind].samples))
