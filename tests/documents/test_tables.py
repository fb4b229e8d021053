"""Documents: lists and tables that repeat the code say what the code says."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from typing import get_args

import pytest

from ccvid.setting_kinds import DatasetKind
from ray_jobs.cli import read_recipe, recipe_names
from tests.documents.commands import JOBS, own_flags
from tests.documents.markdown import PACKAGES, ROOT, blocks, named, prose, read, table
from video_backbones.choices import backbone_names, csci_names
from video_backbones.summary import summarise

JOBS_README = "ray_jobs/README.md"


def first(rows: list[list[str]]) -> list[str]:
    """The names in the first column, a row after the other."""
    return [name for row in rows for name in named(row[0])]


def test_jobs_are_all_files_that_run() -> None:
    files = [path for path in (ROOT / "ray_jobs").glob("*.py") if "run_job(main)" in path.read_text()]
    assert sorted(JOBS) == sorted(path.stem for path in files)
    assert first(table(read("README.md"), "job")) == [f"ray_jobs/{job}.py" for job in JOBS]


@pytest.mark.parametrize("job", JOBS)
def test_the_table_of_jobs_names_their_own_flags(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {named(row[0])[0]: named(row[2]) for row in table(read(JOBS_README), "job")}
    assert rows.keys() == {f"{name}.py" for name in JOBS}
    assert set(rows[f"{job}.py"]) == own_flags(job, monkeypatch)


def test_the_table_of_recipes_is_the_folder() -> None:
    assert sorted(first(table(read(JOBS_README), "recipe"))) == recipe_names()


def test_the_table_of_published_rows_has_every_published_recipe() -> None:
    rows = table(read("ccvid/RELEASED.md"), "row")
    assert {named(row[1])[0] for row in rows} == {name for name in recipe_names() if name.endswith("_paper")}


def test_the_table_of_extras_is_the_projects() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(first(table(read(JOBS_README), "extra"))) == extras.keys()


def test_the_table_of_data_sets_has_every_kind() -> None:
    kinds = first(table(read("data_tools/README.md"), "kind"))
    assert sorted(kinds) == sorted(get_args(DatasetKind))
    assert {read_recipe(name)["data"]["kind"] for name in recipe_names()} <= set(kinds)


def test_the_layers_of_retrieval_are_those_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c.get("containers") == ["ccvid.retrieval"])
    shown = [name.rpartition(".")[2] for name in first(table(read("ccvid/retrieval/README.md"), "layer"))]
    assert shown == layers[::-1]


def test_the_files_of_a_run_are_written_by_the_code() -> None:
    names = first(table(read(JOBS_README), "file"))
    written = _words_of_the_code()
    assert len(names) > 10
    assert [name for name in names if name.strip("/").partition("*")[0] not in written] == []


def test_every_benchmark_has_its_command_or_is_named() -> None:
    text = read("tests/benchmarks/README.md")
    programs = [path for path in (ROOT / "tests" / "benchmarks").glob("*.py") if "__main__" in path.read_text()]
    assert len(programs) > 15
    assert [path.stem for path in programs if not re.search(rf"\b{path.stem}\b", text)] == []


@pytest.mark.parametrize("row", table(read("video_backbones/README.md"), "backbone"), ids=lambda row: named(row[0])[0])
def test_a_row_of_the_table_of_backbones(row: list[str]) -> None:
    found = summarise(named(row[0])[0], (8, 256, 128))
    size = [str(found.feature_size), f"{found.parameters / 1e6:.1f}", f"{found.flops / 1e9:.1f}"]
    assert row[1:] == [*size, ", ".join(found.weights)]


def test_the_table_of_backbones_has_every_one() -> None:
    assert first(table(read("video_backbones/README.md"), "backbone")) == [*backbone_names(), *csci_names()]


def test_what_readme_shows_as_printed_is_what_the_code_prints() -> None:
    """The table's heading is the code's, and the lines around it begin with words that it has."""
    first_line, _, heading, _, *rows, last_line = blocks(read("README.md"))[1].splitlines()
    written = _words_of_the_code()
    assert [word for word in heading.split() if word not in written and not word.startswith("top-")] == []
    assert [row.split()[0] for row in rows] == ["general", "same-clothes", "clothes-changing"]
    assert f"{first_line.partition(': ')[0]}: " in written
    assert f"{last_line.partition(': ')[0]}" in written


def test_wall_between_blocks_and_prose() -> None:
    text = "a `b`\n\n- c\n\n  ```\n  d `e`\n  ```\n\n```\n# f\n```\n"
    assert "d" not in prose(text)
    assert blocks(text) == ["  d `e`\n", "# f\n"]


@cache
def _words_of_the_code() -> str:
    """All text in our code; f-strings in their constant parts."""
    files = [path for package in PACKAGES if package != "tests" for path in (ROOT / package).rglob("*.py")]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text())))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
