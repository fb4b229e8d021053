"""A picture sequence in MOTChallenge's layout, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.made_footage import mot

INFO = "[Sequence]\nname=MOT17-02\nimDir=img1\nframeRate=10\nseqLength=20\nimWidth=96\nimHeight=64\nimExt=.png\n"


def make_sequence(folder: Path, numbers: range = range(1, 21), info: str | None = INFO, suffix: str = ".png") -> Path:
    """``folder`` with one picture per number (up to 24; grey level ten times that), and ground truth of one track."""
    (folder / "img1").mkdir(parents=True)
    for number in numbers:
        picture = np.full((64, 96, 3), number % 25 * 10, np.uint8)
        Image.fromarray(picture).save(folder / "img1" / f"{number:06d}{suffix}")
    if info is not None:
        (folder / "seqinfo.ini").write_text(info)
    (folder / "gt").mkdir()
    (folder / "gt" / "gt.txt").write_text(mot(1, numbers, rest=",1,1,1"))
    return folder
