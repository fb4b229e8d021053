"""The cluster guide: the messages that it explains are ours and Ray's; `tests/documents` checks its commands."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
import ray

from tests.jobs.head import ROOT

GUIDE = ROOT / "ray_jobs" / "cluster_guide"
PACKAGES = ("ray_jobs", "ccvid", "video_backbones", "data_tools")


def text() -> str:
    return (GUIDE / "GUIDE.md").read_text()


@cache
def our_words() -> str:
    """All text in our code; the constant parts of f-strings, which lines do not split."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text())))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def symptoms(heading: str) -> list[str]:
    """First column of the table below a heading, without its backquotes."""
    table = text().partition(f"\n{heading}\n")[2].partition("\n#")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert rows, heading
    return [row.split("`")[1] for row in rows]


@cache
def rays_words() -> str:
    folder = Path(ray.__file__).parent
    parts = ("_private", "dashboard/modules/job", "autoscaler/_private")
    return "\n".join(path.read_text() for part in parts for path in (folder / part).rglob("*.py"))


def parts(symptom: str) -> list[str]:
    """A message's words between the parts that vary."""
    return [part.strip() for part in symptom.split("…") if part.strip()]


@pytest.mark.parametrize("symptom", symptoms("### Messages of ccvid"))
def test_a_message_of_the_guide_is_one_of_ours(symptom: str) -> None:
    assert [part for part in parts(symptom) if part not in our_words()] == []


@pytest.mark.parametrize("symptom", symptoms("### Messages of Ray"))
def test_a_message_of_ray_is_in_the_installed_ray(symptom: str) -> None:
    assert [part for part in parts(symptom) if part not in rays_words()] == []
