"""Commands that the documents show: found, and parsed by the parsers that would run them, without running them."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from argparse import ArgumentParser, Namespace
from importlib import import_module
from typing import Any, NoReturn

import pytest

from ccvid.config import Recipe
from ray_jobs.cli import parse_recipe
from tests.documents.markdown import PACKAGES, ROOT, blocks, spans

Parsed = tuple[Recipe, Namespace]
JOBS = ("shard", "train", "evaluate", "score", "identify", "serve", "tune", "export")
_OURS = f"(?:{'|'.join(PACKAGES)})"
MADE_RECIPES = ("best.yaml", "config.yaml")
"""Files that jobs write, which documents take as recipes."""


class _ParsedError(Exception):
    pass


def commands(text: str) -> list[str]:
    """Every command of ours in blocks and backticks, written as ``python SCRIPT …`` or ``python -m MODULE …``."""
    lines = [line for block in blocks(text) for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    found = [command for line in [*lines, *spans(text)] for command in _commands_of(line)]
    return list(dict.fromkeys(found))


def ray_commands(text: str) -> list[str]:
    """Every command of Ray's in the blocks."""
    lines = [line for block in blocks(text) for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return [_without_comment(line) for line in lines if line.startswith("ray ")]


def parse_job(command: str, monkeypatch: pytest.MonkeyPatch) -> Parsed:
    """What a job makes of its flags; it is stopped before it does anything."""
    python, script, *arguments = shlex.split(command)
    assert python == "python"
    assert (ROOT / script).exists(), command
    arguments = ["synthetic" if word.rpartition("/")[2] in MADE_RECIPES else word for word in arguments]

    def stop(*given: Any, **named: Any) -> NoReturn:
        raise _ParsedError(parse_recipe(*given, **named))

    module = import_module(script.removesuffix(".py").replace("/", "."))
    monkeypatch.setattr(module, "parse_recipe", stop)
    with pytest.raises(_ParsedError) as found:
        module.main(arguments)
    parsed: Parsed = found.value.args[0]
    return parsed


def own_flags(job: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The flags that a job has besides the fields of a recipe."""

    def stop(*_: Any, extra: ArgumentParser, **__: Any) -> NoReturn:
        raise _ParsedError(set(extra._option_string_actions))

    module = import_module(f"ray_jobs.{job}")
    monkeypatch.setattr(module, "parse_recipe", stop)
    with pytest.raises(_ParsedError) as found:
        module.main([])
    flags: set[str] = found.value.args[0]
    return flags


def parse_module(command: str, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """What ``python -m MODULE`` makes of its arguments; it is stopped before it does anything else."""
    _, _, module, *arguments = shlex.split(command)
    parse = ArgumentParser.parse_args

    def stop(parser: ArgumentParser, *given: Any, **named: Any) -> NoReturn:
        raise _ParsedError(parse(parser, *given, **named))

    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.setattr(ArgumentParser, "parse_args", stop)
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(_ParsedError) as found:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    parsed: Namespace = found.value.args[0]
    return parsed


def _commands_of(line: str) -> list[str]:
    text = _without_comment(line)
    if found := re.search(rf"(?:^|&& |-- )(?:\.venv/bin/)?python (ray_jobs/\w+\.py|-m {_OURS}\.[\w.]+\w)(?= |$)", text):
        return [f"python {text[found.start(1) :]}"]
    if found := re.match(r"(?:ray_jobs/)?(\w+)\.py (?=-)", text):
        return [f"python ray_jobs/{found[1]}.py {text[found.end() :]}"] if found[1] in JOBS else []
    if re.match(r"(bench_\w+|campaign)(?= |$)", text):
        return [f"python -m tests.benchmarks.{text}"]
    return []


def _without_comment(line: str) -> str:
    return re.sub(r"\s+(#|&(?!&)).*", "", line).strip()
