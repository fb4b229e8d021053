"""The cluster guide: its commands and settings use only names that exist, its messages are ours and Ray's."""

from __future__ import annotations

import ast
import re
import shlex
from argparse import Namespace
from collections.abc import Iterator
from functools import cache, reduce
from importlib import import_module
from itertools import pairwise
from operator import getitem
from pathlib import Path
from typing import Any, NoReturn

import pytest
import ray
import yaml
from pydantic import BaseModel

from ccvid.config import Recipe
from ray_jobs.cli import UsageError, parse_recipe
from tests.jobs.head import ROOT
from tests.jobs.test_cli import fields

GUIDE = ROOT / "ray_jobs" / "cluster_guide"
PACKAGES = ("ray_jobs", "ccvid", "video_backbones", "data_tools")

Parsed = tuple[Recipe, Namespace]


class _ParsedError(Exception):
    pass


def text() -> str:
    return (GUIDE / "GUIDE.md").read_text()


def parse(command: str, monkeypatch: pytest.MonkeyPatch) -> Parsed:
    """How the script of a command line parses its flags; it is stopped before it does anything."""
    python, script, *arguments = shlex.split(command)
    arguments = ["synthetic" if argument == "best.yaml" else argument for argument in arguments]  # a search writes it
    assert python == "python"
    assert (ROOT / script).exists(), command
    module = import_module(script.removesuffix(".py").replace("/", "."))

    def stop(*given: Any, **named: Any) -> NoReturn:
        raise _ParsedError(parse_recipe(*given, **named))

    monkeypatch.setattr(module, "parse_recipe", stop)
    with pytest.raises(_ParsedError) as found:
        module.main(arguments)
    parsed: Parsed = found.value.args[0]
    return parsed


def commands() -> list[str]:
    """Every command line of the guide that runs one of our scripts."""
    joined = re.sub(r"\\\n\s*", "", text())
    found: list[str] = re.findall(r"python ray_jobs/[^`\n#]+", joined)
    return [command.strip() for command in found]


def test_the_guide_shows_every_script() -> None:
    shown = {shlex.split(command)[1] for command in commands()}
    assert shown >= {f"ray_jobs/{name}.py" for name in ("train", "shard", "tune", "evaluate")}


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_guide_has_only_flags_that_exist(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, own = parse(command, monkeypatch)
    words = shlex.split(command)
    set_fields = {word[2:]: value for word, value in pairwise(words) if word.startswith("--") and "." in word}
    for field, value in set_fields.items():
        assert reduce(getitem, field.split("."), recipe.model_dump(mode="json")) == yaml.safe_load(value), field
    assert own.recipe


def test_a_flag_that_does_not_exist_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no_such_flag"):
        parse("python ray_jobs/train.py --compute.no_such_flag 1", monkeypatch)


def test_every_setting_that_the_guide_names_exists() -> None:
    known = {name for name, _ in fields(Recipe)} | set(sections(Recipe))
    top = "|".join(Recipe.model_fields)
    named = set(re.findall(rf"`(?:--)?((?:{top})\.[a-z_]+(?:\.[a-z_]+)*)", text()))
    assert len(named) > 10
    assert {name for name in named if name not in known} == set()


def sections(model: type[BaseModel], place: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{place}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation, f"{place}{name}.")


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


@pytest.mark.parametrize("symptom", symptoms("### What ccvid says"))
def test_a_message_of_the_guide_is_one_of_ours(symptom: str) -> None:
    assert [part for part in parts(symptom) if part not in our_words()] == []


@pytest.mark.parametrize("symptom", symptoms("### What Ray says"))
def test_a_message_of_ray_is_in_the_installed_ray(symptom: str) -> None:
    assert [part for part in parts(symptom) if part not in rays_words()] == []
