"""Documents: links lead somewhere, files, modules and settings that are named exist, and README stays short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from ccvid.config import Recipe
from tests.documents.markdown import DOCUMENTS, OF_REAL_NAMES, PACKAGES, ROOT, anchors, blocks, links, read, spans
from tests.jobs.test_cli import fields

MOST_WORDS, MOST_LINES = 1300, 120
"""Of README, which is read in three minutes."""
FILE_KINDS = ("py", "md", "yaml", "toml", "css", "js", "j2")
OF_USERS = ("labels.csv", "best.yaml", "config.yaml")
"""Files that users or jobs write."""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    for link in links(read(document)):
        path, _, anchor = link.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_readme_links_to_every_document() -> None:
    linked = {link.partition("#")[0] for link in links(read("README.md"))}
    assert {document for document in DOCUMENTS if document != "README.md"} <= linked


def test_readme_is_short() -> None:
    text = read("README.md")
    assert len(text.split()) <= MOST_WORDS
    assert len(text.splitlines()) <= MOST_LINES


@pytest.mark.parametrize("document", OF_REAL_NAMES)
def test_every_file_that_is_named_exists(document: str) -> None:
    text = read(document)
    missing = [path for path in _paths(text) if not _exists(path, document)]
    assert missing == []


@pytest.mark.parametrize("document", OF_REAL_NAMES)
def test_every_module_that_is_named_exists(document: str) -> None:
    assert [name for name in _modules(read(document)) if not _is_module_or_in_one(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_setting_that_is_named_exists(document: str) -> None:
    known = {name for name, _ in fields(Recipe)} | set(_sections(Recipe))
    top = "|".join(Recipe.model_fields)
    named = {
        found[1]
        for span in spans(read(document))
        for found in re.finditer(rf"(?<![\w./])(?:--)?((?:{top})\.[a-z_0-9]+(?:\.[a-z_0-9]+)*)(?![\w/])", span)
        if not found[1].endswith((".py", ".txt", ".onnx"))
    }
    assert named - known == set()


def test_made_up_names_are_found() -> None:
    text = "`ccvid/nothing.py`, `data_tools.nothing`, `ccvid.released.nothing` and ```no block```"
    assert [path for path in _paths(text) if not _exists(path, "README.md")] == ["ccvid/nothing.py"]
    assert not any(_is_module_or_in_one(name) for name in _modules(text))
    assert _is_module_or_in_one("ccvid.released.main")
    assert anchors("# A `b`, c: d-e\n") == ["a-b-c-d-e"]


def _paths(text: str) -> Iterator[str]:
    """Words that look like files of the project: below a package, or of a kind that it holds."""
    words = [word for part in (*spans(text), *blocks(text)) for word in re.split(r"[\s,;()\[\]{}'\"=]+", part)]
    for word in words:
        is_plain = re.fullmatch(r"[\w./-]+", word) and "NAME" not in word
        below_package = word.partition("/")[0] in (*PACKAGES, ".ci") and "/" in word
        is_file = word.rpartition(".")[2] in FILE_KINDS and not word.startswith("/") and "RUN/" not in word
        if is_plain and (below_package or is_file) and word not in OF_USERS:
            yield word.removeprefix("./")


def _exists(path: str, document: str) -> bool:
    folders = (ROOT, (ROOT / document).parent, ROOT / "ray_jobs")
    return any((folder / path).exists() for folder in folders)


def _modules(text: str) -> list[str]:
    """Dotted names below our packages; further ones of the same package may follow, as in ``data_tools.a, .b``."""
    top = "|".join(PACKAGES)
    found = re.finditer(rf"(?<![\w./-])((?:{top})(?:\.[a-z_]\w*)+)((?:, \.\w+)*)", text)
    names = [(match[1], match[1].partition(".")[0], match[2]) for match in found]
    every = [name for first, package, more in names for name in (first, *(package + n for n in more.split(", ")[1:]))]
    return [name for name in every if not name.endswith((".zip", ".git"))]


def _is_module_or_in_one(name: str) -> bool:
    try:
        if find_spec(name) is not None:
            return True
    except ModuleNotFoundError:
        pass  # a name within a module, or nothing
    module, _, member = name.rpartition(".")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return False
    return re.search(rf"^(?:def|class) {member}\b|^{member}\b", Path(spec.origin).read_text(), re.MULTILINE) is not None


def _sections(model: type[BaseModel], place: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{place}{name}"
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _sections(part, f"{place}{name}.")
