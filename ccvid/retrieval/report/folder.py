"""A report's folder, written completely or not at all; its pages, style, script and data open from disk (file://)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from data_tools.errors import InputError

MARKER = "report.json"
"""Marks a folder as a report, which a new one may replace."""

OWN_NAMES = frozenset({MARKER, "index.html", "filmstrips.html", "report.css", "filmstrips.js", "persons.js"}) | {
    "data",
    "pictures",
    "figures",
}

POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file: 'unsafe-inline'; img-src 'self' file:; "
    "base-uri 'none'; form-action 'none'"
)
"""Allows only own files and inline styles (of the SVG charts); some browsers do not count file:// as 'self'."""


@contextmanager
def report_folder(destination: Path, script: str = "filmstrips.js") -> Iterator[Path]:
    """A new folder next to ``destination`` that replaces it on success and is removed on failure.

    An earlier report there is replaced. Raises InputError if the destination holds anything else or cannot be written.

    Args:
        script: the file beside this one that the pages load.
    """
    destination = destination.resolve()
    try:
        _check_replaceable(destination)
        destination.parent.mkdir(parents=True, exist_ok=True)
        work = destination.parent / f".{destination.name[:100]}.tmp"
        if work.exists():  # of a report that was killed: its pictures must not stay
            shutil.rmtree(work)
        try:
            new = work / "new"
            new.mkdir(parents=True)
            yield new
            for name in ("report.css", script):
                (new / name).write_bytes(files(__package__).joinpath(name).read_bytes())
            (new / MARKER).write_text(json.dumps({"format": "ccvid report", "version": 1}) + "\n")
            _put_in_place(new, work / "old", destination)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{destination}: the report cannot be written: {error}") from error


def write_page(folder: Path, page: str, template: str, values: Mapping[str, object]) -> None:
    """Render ``template`` (``*.html.j2`` next to this file) with every value escaped."""
    environment = Environment(
        loader=PackageLoader("ccvid.retrieval.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template(template).render({"policy": POLICY, **values})
    (folder / page).write_bytes(html.encode("utf-8", "replace"))


def write_data(path: Path, target: str, value: object) -> None:
    """Write a script that assigns ``value`` to ``target``: pages on disk can load scripts, but not fetch JSON."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII: no line separators, no stray bytes
    path.write_text(f"{target}={text.replace('<', chr(92) + 'u003c')};\n")


def _check_replaceable(destination: Path) -> None:
    if not destination.exists():
        return
    if not destination.is_dir():
        raise InputError(f"{destination}: is a file, but the report needs a folder")
    found = {path.name for path in destination.iterdir()}
    if found and (MARKER not in found or not found <= OWN_NAMES):
        alien = sorted(found - OWN_NAMES) or sorted(found)
        raise InputError(
            f"{destination}: holds {alien[0]!r}, which is not part of a report; give a new folder or an earlier report"
        )


def _put_in_place(new: Path, old: Path, destination: Path) -> None:
    replaced = destination.exists()
    if replaced:
        os.rename(destination, old)
    try:
        os.rename(new, destination)
    except OSError:
        if replaced:
            os.rename(old, destination)
        raise
