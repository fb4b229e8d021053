"""What ``ccvid/HOW_TO_ADD.md`` says works on a copy of the code, and the lists in documents are those of the code."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from data_tools.datasets.released import RELEASED_SETS
from tests.data.released_formats import write_crop

ROOT = Path(__file__).parents[1]
PACKAGES = ("ccvid", "data_tools", "ray_jobs", "video_backbones")
PAGE = ROOT / "ccvid" / "HOW_TO_ADD.md"
HALF_A_SCREEN = 48


def sections() -> dict[str, str]:
    """The page by headings."""
    _, *parts = re.split(r"^## (.+)\n", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", sections()[section], flags=re.MULTILINE | re.DOTALL)


def apply(block: str, copy: Path) -> None:
    """Do what a block's first line says with the others."""
    order, code = block.split("\n", 1)
    if new := re.fullmatch(r"# New file: (\S+)", order):
        path = copy / new[1]
        assert not path.exists()
        path.write_text(code)
        return
    told = re.fullmatch(r"# In (\S+), (above|the last row of|an import and the last row of) (\w+)", order)
    assert told, f"no way to do {order!r}"
    path, how, name = copy / told[1], told[2], told[3]
    text = path.read_text()
    if how.startswith("an import"):
        line, code = code.split("\n", 1)
        first = f"\nfrom {path.relative_to(copy).parts[0]}."
        text = text.replace(first, f"\n{line}{first}", 1)
    before, table, after = re.split(rf"^({name}\b.* = [({{]\n)", text, maxsplit=1, flags=re.MULTILINE)
    if how == "above":
        before += f"{code}\n\n"
    else:
        after = re.sub(r"^[)}]$", lambda end: code + end[0], after, count=1, flags=re.MULTILINE)
    path.write_text(before + table + after)


def added(section: str, tmp_path: Path) -> Path:
    """A copy of the code to which the section's blocks are added, as the code's own style has it."""
    copy = tmp_path / "copy"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    code = blocks(section, "python")
    assert code
    for block in code:
        apply(block, copy)
    for check in (["check", "--ignore", "I001"], ["format", "--check"]):  # where the import stands the page leaves open
        run(copy, "-m", "ruff", *check, "--no-cache", ".")
    return copy


def run(copy: Path, *arguments: str) -> str:
    """Run Python in the copy, which its modules come from; the tests' own are from here."""
    environment = {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def use(section: str, copy: Path, work: Path) -> str:
    """What the section adds, with the flags of its command; FOLDER and SHARDS stand in ``work``."""
    flags = []
    for command in blocks(section, "sh"):
        python, job, *flags = (str(work / word) if word.isupper() else word for word in shlex.split(command))
        assert python == "python"
        assert (copy / job).is_file()
    return run(copy, "-m", "tests.adding_driver", section, str(work), *flags)


def help_of(copy: Path) -> str:
    """All of it, without line ends."""
    return " ".join(run(copy, "ray_jobs/train.py", "--help", "all").split())


def test_a_data_set(tmp_path: Path) -> None:
    copy = added("A data set", tmp_path)
    for (split, persons), outfit, camera in product(
        {"train": (1, 2), "query": (3,), "gallery": (3,)}.items(), "12", "45"
    ):
        for person in persons:
            write_crop(tmp_path / "FOLDER" / split / f"{person:04d}_{outfit}_c{camera}_{len(split):04d}.jpg")
    assert use("A data set", copy, tmp_path).split() == ["corridor", "8", "4", "4", "3", "6"]
    shown = help_of(copy)
    assert "last, corridor, footage or clips" in shown
    assert "last, corridor: images as released" in shown
    assert "train (LTCC, VC-Clothes, LaST, Corridor)" in shown


def test_a_backbone(tmp_path: Path) -> None:
    copy = added("A backbone", tmp_path)
    assert use("A backbone", copy, tmp_path).split() == ["tiny", "2", "64", "64"]
    assert "mvit_v2_s, tiny, or timm/NAME" in help_of(copy)
    assert "| `tiny` | 64 | 0.0 |" in run(copy, "-m", "video_backbones.summary", "tiny", "--markdown")


def test_a_loss(tmp_path: Path, tiny_shards: Path) -> None:
    copy = added("A loss", tmp_path)
    (tmp_path / "SHARDS").symlink_to(tiny_shards)
    hinge = 16 * (0.2 - 0.5 + 0.4) / 2
    assert use("A loss", copy, tmp_path).split() == ["hinge", f"{hinge:.4f}"]
    shown = help_of(copy)
    assert "One of cross_entropy, arcface, cosface, circle or hinge." in shown
    assert "identity losses arcface, cosface, circle and hinge" in shown


def test_a_method(tmp_path: Path, tiny_shards: Path) -> None:
    copy = added("A method", tmp_path)
    (tmp_path / "SHARDS").symlink_to(tiny_shards)
    assert use("A method", copy, tmp_path).splitlines()[-1].split() == ["Centred", "identity_loss", "length_loss"]
    assert "cal (CAL), csci (CSCI), cluster_contrast (cluster contrast) or centred (Centred)" in help_of(copy)


def test_a_chart(tmp_path: Path) -> None:
    copy = added("A chart", tmp_path)
    use("A chart", copy, tmp_path)
    page = (tmp_path / "report" / "index.html").read_text()
    names = re.findall(r'<figure><div class="chart" role="img" aria-label="(.+?)"><svg', page)
    assert names[-1] == "Average precision of every query"
    assert "<figcaption>Average precision of each query: how many" in page


def test_every_section_is_tried_and_half_a_screen_long() -> None:
    assert list(sections()) == ["A data set", "A backbone", "A loss", "A method", "A chart"]
    assert {name: len(text.splitlines()) for name, text in sections().items() if text.count("\n") > HALF_A_SCREEN} == {}


def documents() -> dict[Path, str]:
    paths = [*ROOT.glob("*.md"), *(path for package in PACKAGES for path in (ROOT / package).rglob("*.md"))]
    return {path: path.read_text() for path in [*paths, *(ROOT / "tests").rglob("*.md")]}


@pytest.mark.parametrize("kind", RELEASED_SETS)
def test_documents_name_the_data_set(kind: str) -> None:
    title = RELEASED_SETS[kind].title
    assert any(title in text for text in documents().values()), (
        f"no document names {title}, which --data.kind {kind} reads"
    )
