"""What the project's documents hold, read as plainly as their own Markdown needs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("ccvid", "data_tools", "ray_jobs", "video_backbones", "tests")
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *(path for name in PACKAGES for path in (ROOT / name).rglob("*.md")))
)

OF_REAL_NAMES = [document for document in DOCUMENTS if document != "ccvid/HOW_TO_ADD.md"]
"""That page adds made-up parts, which ``tests/test_how_to_add.py`` really adds."""

_BLOCK = re.compile(r"^( *)```[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")


def read(document: str) -> str:
    """A document's text, by its path below the root."""
    return (ROOT / document).read_text()


def blocks(text: str) -> list[str]:
    """The fenced blocks."""
    return [found[2] for found in _BLOCK.finditer(text)]


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return _BLOCK.sub("", text)


def spans(text: str) -> list[str]:
    """What stands in backticks outside the blocks, on one line each."""
    return [" ".join(found.split()) for found in _SPAN.findall(prose(text))]


def links(text: str) -> list[str]:
    """The targets of links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def anchors(text: str) -> list[str]:
    """The headings as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def table(text: str, first_heading: str) -> list[list[str]]:
    """The cells of the table's rows, the one whose first column has this heading; several of them joined."""
    rows: list[list[str]] = []
    inside = False
    for line in prose(text).splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == first_heading:
            inside = True
        elif inside and not set(line) <= set("|-: "):
            rows.append(cells)
    assert rows, f"no table with the heading {first_heading!r}"
    return rows


def named(cell: str) -> list[str]:
    """What a cell has in backticks."""
    return _SPAN.findall(cell)
