"""Documents: every command parses by the job's own parser, and what is cheap is run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from functools import reduce
from itertools import pairwise
from operator import getitem
from pathlib import Path

import click
import pytest
import yaml
from ray.scripts.scripts import cli as ray_cli

from ccvid.config import Recipe
from data_tools.datasets.label_table import read_labels
from data_tools.datasets.problems import ProblemLog
from ray_jobs.cli import UsageError
from tests.documents.commands import JOBS, commands, own_flags, parse_job, parse_module, ray_commands
from tests.documents.markdown import DOCUMENTS, OF_REAL_NAMES, ROOT, blocks, read, spans
from tests.jobs.test_cli import fields, parse

ALL = sorted({command for document in OF_REAL_NAMES for command in commands(read(document))})
OF_JOBS = [command for command in ALL if command.startswith("python ray_jobs/")]
OF_MODULES = [command for command in ALL if command.startswith("python -m ")]
OF_RAY = [command for document in DOCUMENTS for command in ray_commands(read(document))]
CHEAP = ("python -m video_backbones.summary c2d",)
"""Beginnings of commands that are run as they are: seconds, no data, no network."""
OF_OTHERS = {"--help", "--head", "--shm-size", "--check"}
"""Flags of Ray, Docker and ruff, and the one that all have."""


@pytest.mark.parametrize("command", OF_JOBS)
def test_a_jobs_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, own = parse_job(command, monkeypatch)
    words = shlex.split(command)
    set_fields = {word[2:]: value for word, value in pairwise(words) if word.startswith("--") and "." in word}
    values = recipe.model_dump(mode="json")
    for field, value in set_fields.items():
        expected, found = yaml.safe_load(value), reduce(getitem, field.split("."), values)
        assert found == expected or Path(str(found)).name == Path(str(expected)).name, field
    assert own.recipe


@pytest.mark.parametrize("command", OF_MODULES)
def test_a_modules_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_module(command, monkeypatch) is not None


def parse_ray(command: str) -> click.Context:
    found: click.Command = ray_cli
    words = shlex.split(command)[1:]
    while isinstance(found, click.Group):
        found = found.commands[words.pop(0)]
    return found.make_context(str(found.name), words)


@pytest.mark.parametrize("command", OF_RAY)
def test_a_command_of_ray_is_understood(command: str) -> None:
    assert parse_ray(command).params


def test_commands_of_every_job_are_shown() -> None:
    assert {shlex.split(command)[1] for command in OF_JOBS} == {f"ray_jobs/{job}.py" for job in JOBS}
    assert len(OF_MODULES) > 25
    assert len(OF_RAY) > 5
    assert [command for command in ALL if command.startswith(CHEAP)]


@pytest.mark.parametrize("command", [command for command in ALL if command.startswith(CHEAP)])
def test_a_cheap_command_runs(command: str) -> None:
    done = subprocess.run([sys.executable, *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_flag_that_is_named_exists(document: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes the value that stands beside it."""
    known = {f"--{name}" for name, _ in fields(Recipe)} | OF_OTHERS | {"--recipe", "--only"}
    known |= {flag for job in JOBS for flag in own_flags(job, monkeypatch)}
    for span in spans(read(document)):
        words = shlex.split(span) if span.startswith("--") else []
        flags = [word for word in words if word.startswith("--")]
        assert [flag for flag in flags if flag not in known] == []
        values = words[1::2]
        is_complete = words[::2] == flags and len(values) == len(flags) and not any(map(str.isupper, values))
        if flags and is_complete and all("." in flag for flag in flags):
            parse(*words, *("--data.footage.videos", "V"), *("--data.clips.folder", "C"))


def test_wrong_commands_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no_such_flag"):
        parse_job("python ray_jobs/train.py --compute.no_such_flag 1", monkeypatch)
    with pytest.raises(UsageError, match="no recipe of that name"):
        parse_job("python ray_jobs/train.py --recipe nothing", monkeypatch)
    with pytest.raises(click.NoSuchOption):
        parse_ray("ray start --no-such-flag")
    with pytest.raises(SystemExit):
        parse_module("python -m video_backbones.summary --no-such-flag", monkeypatch)
    shown = "`train.py --seeds 5`\n\n```\nray job submit -- python ray_jobs/shard.py \\\n  --verify  # all\n```\n"
    assert commands(shown) == ["python ray_jobs/shard.py --verify", "python ray_jobs/train.py --seeds 5"]


def test_readme_begins_with_the_commands_that_ci_runs() -> None:
    install, run_tests = blocks(read("README.md"))[0].splitlines()
    assert install.split(" && ") == [
        "python3 -m venv .venv",
        ".venv/bin/pip install -e '.[test]'",
        ".venv/bin/python ray_jobs/train.py",
    ]
    assert run_tests == ".venv/bin/python -m pytest"
    if (ROOT / ".ci" / "run").exists():  # not in a job's upload
        ci = (ROOT / ".ci" / "run").read_text()
        assert "install --quiet --no-compile -e '.[test]'" in ci
        assert 'bin/python" -m pytest' in ci


def test_the_extras_that_are_named_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for document in DOCUMENTS for name in re.findall(r"ccvid\[(\w+)\]", read(document))}
    assert named
    assert named <= extras.keys()


def test_the_label_file_that_is_shown_can_be_read(tmp_path: Path) -> None:
    shown = [block for block in blocks(read("data_tools/README.md")) if block.lstrip().startswith("video,track")]
    file = tmp_path / "labels.csv"
    file.write_text("".join(line.strip() + "\n" for line in shown[0].splitlines()))
    log = ProblemLog()
    labels = read_labels(file, ("video", "track"), lambda row: row["video"] + row["track"], log)
    assert log.problems() == ()
    assert [(label.person, label.clothes, label.split) for label in labels.values()] == [("anna", "red coat", "train")]


def test_the_images_requirements_are_the_projects() -> None:
    """The program in the guide's Dockerfile, run on this project's file."""
    guide = re.sub(r"\\\n\s*", "", read("ray_jobs/cluster_guide/GUIDE.md"))
    found = re.search(r'RUN python -c ("import tomllib.*?") > /tmp', guide)
    assert found
    program = shlex.split(found[1])[0].replace("/tmp/pyproject.toml", str(ROOT / "pyproject.toml"))
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert shown.splitlines() == [*project["dependencies"], *project["optional-dependencies"]["tune"]]
