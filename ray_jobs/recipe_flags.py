"""A recipe's fields as flags: how each is named, read from the command line and explained."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ccvid.config import Recipe
from data_tools.documents import parse_yaml
from data_tools.errors import InputError
from data_tools.options import Rare
from data_tools.wording import listed

LONGEST_FLAG = 33
"""Characters of a flag with its choices beside it; longer ones follow its explanation."""


@dataclass(frozen=True, slots=True)
class RecipeField:
    """A field of a recipe, or of one of its sections."""

    name: str
    """Dotted: ``optim.learning_rate`` is the flag ``--optim.learning_rate``."""
    info: FieldInfo
    schema: Mapping[str, Any]
    """Its JSON schema."""
    rare: bool
    """Whether only ``--help all`` shows it: it or a section around it is marked so."""

    @property
    def default(self) -> object:
        """Without a recipe; None where it has none."""
        return None if self.info.is_required() else self.info.get_default()

    @property
    def takes_list(self) -> bool:
        """Whether it may be written as ``40,80`` or ``[40, 80]``."""
        return any(kind.get("type") == "array" for kind in self._kinds)

    @property
    def holds_models(self) -> bool:
        """Whether each entry of its list is a mapping with fields of its own."""
        return any("$ref" in kind.get("items", {}) for kind in self._kinds)

    @property
    def expected(self) -> str:
        """The values that it takes, in words."""
        return listed([*_choices(self._kinds), *filter(None, map(_in_words, self._kinds))], "or")

    @property
    def metavar(self) -> str:
        """What stands for its value in the help."""
        choices, kind = _choices(self._kinds), self._kinds[0]
        if choices == ["true", "false"]:
            return "BOOL"
        if choices:
            metavar = "{" + ",".join(choices) + "}"
            return metavar if len(f"--{self.name} {metavar}") <= LONGEST_FLAG else "NAME"
        names = {"integer": "N", "number": "X", "array": "A,B,..."}
        return names.get(kind["type"], "PATH" if kind.get("format") == "path" else "TEXT")

    def read(self, texts: Sequence[str]) -> object:
        """The value as a recipe file would have it, for pydantic to check.

        Args:
            texts: of the flag, each time that it is given. The last one counts, but a list has the entries of all.

        Raises:
            InputError: text in brackets is not YAML.
        """
        if texts[-1].lower() in ("none", "null") and self._optional:
            return None
        if self.takes_list:
            counted = texts if len(self._kinds) == 1 else texts[-1:]  # workers 4, then 8, are no range
            return [entry for text in counted for entry in _entries(text, f"--{self.name} {text}")]
        values = {str(value): value for kind in self._kinds for value in kind.get("enum", ())}
        return values.get(texts[-1], texts[-1])

    def explain(self, value: object, *, in_full: bool) -> str:
        """Its help: what it is and its default.

        Args:
            value: the default; None where the field's own description says what then happens.
            in_full: the whole description, not its first sentence alone.
        """
        text, _, without_value = " ".join((self.info.description or "").split()).partition(" Default: ")
        if not in_full:
            text = text.partition(". ")[0].removesuffix(".") + "."
        if self.metavar == "NAME":
            text += f" One of {listed(_choices(self._kinds), 'or')}."
        if value is None:
            default = without_value.removesuffix(".") or "none"
            return f"{text} Required" if self.info.is_required() else f"{text} Default: {default}"
        return f"{text} Default: {_as_typed(value)}"

    @property
    def _kinds(self) -> list[Mapping[str, Any]]:
        return [kind for kind in self.schema.get("anyOf", [self.schema]) if kind.get("type") != "null"]

    @property
    def _optional(self) -> bool:
        return type(None) in get_args(self.info.annotation)


@cache
def recipe_fields() -> Mapping[str, RecipeField]:
    """Every field of a recipe that holds a value, by its dotted name."""
    return {field.name: field for field in _fields(Recipe)}


@cache
def recipe_sections() -> Mapping[str, str]:
    """Every section by its dotted name, with its explanation."""
    return dict(_sections(Recipe))


RENAMED = (("data.storage", "data.frames"), ("data.frames.storage", "data.frames.format"))
"""Sections and settings of older versions and their names today, one after the other, in the same section each."""


def todays_name(name: str) -> str:
    """The name of a setting, which an older version may have given."""
    for old, new in RENAMED:
        if f"{name}.".startswith(f"{old}."):
            name = new + name.removeprefix(old)
    return name


def by_todays_names(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a recipe's values, which an older version may have written.

    Raises:
        InputError: a setting is there by both names.
    """
    values = deepcopy(dict(recipe))
    for old, new in RENAMED:
        *sections, name = old.split(".")
        section: Any = values
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name not in section:
            continue
        if (todays := new.rpartition(".")[2]) in section:
            raise InputError(f"{old} is {new} now, and both are set: keep one")
        section[todays] = section.pop(name)
    return values


def nearest(name: str, names: Collection[str]) -> str:
    """``; did you mean NAME?`` with the most similar of the names, those with the same last part first; or nothing.

    A name of an older version has its name today.
    """
    name = name[:200]  # comparing takes long
    name = "--" * name.startswith("--") + todays_name(name.removeprefix("--"))
    if name in names:
        return f"; it is {name} now"
    same_end = [known for known in names if known.rpartition(".")[2] == name.rpartition(".")[2].lstrip("-")]
    close = difflib.get_close_matches(name, same_end or names, n=1, cutoff=0.0 if same_end else 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _fields(model: type[BaseModel], place: str = "", *, within_rare: bool = False) -> Iterator[RecipeField]:
    schemas = model.model_json_schema()["properties"]
    for name, info in model.model_fields.items():
        rare = within_rare or any(isinstance(mark, Rare) for mark in info.metadata)
        if section := _section(info):
            yield from _fields(section, f"{place}{name}.", within_rare=rare)
        else:
            yield RecipeField(f"{place}{name}", info, schemas[name], rare)


def _sections(model: type[BaseModel], place: str = "") -> Iterator[tuple[str, str]]:
    for name, info in model.model_fields.items():
        if section := _section(info):
            yield f"{place}{name}", info.description or section.__doc__ or ""
            yield from _sections(section, f"{place}{name}.")


def _section(info: FieldInfo) -> type[BaseModel] | None:
    """The section that a field is; None for one that holds a value."""
    parts = (info.annotation, *(get_args(info.annotation) if type(None) in get_args(info.annotation) else ()))
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)


def _entries(text: str, place: str) -> list[Any]:
    """Those of a list's text: YAML (and so JSON) in brackets, or words with commas between them."""
    if not text.startswith(("[", "{")):
        return [part.strip() for part in text.split(",")]
    values = parse_yaml(text.encode(), place)
    return values if isinstance(values, list) else [values]


def _choices(kinds: Sequence[Mapping[str, Any]]) -> list[str]:
    found: list[object] = []
    for kind in kinds:
        found += kind.get("enum", ()) or ([kind["const"]] if "const" in kind else ())
        found += ["true", "false"] if kind.get("type") == "boolean" else []
    return [str(choice) for choice in found]


def _in_words(kind: Mapping[str, Any]) -> str:
    """A kind of values that is no choice among a few."""
    if "enum" in kind or "const" in kind or kind.get("type") == "boolean":
        return ""
    if kind["type"] in ("integer", "number"):
        return f"{'a whole number' if kind['type'] == 'integer' else 'a number'}{_range(kind)}"
    if kind["type"] == "array":
        entries = {"integer": " of whole numbers", "number": " of numbers"}.get(kind.get("items", {}).get("type"), "")
        return f"a list{entries}{' with at least one entry' if kind.get('minItems') else ''}"
    length = f" of at most {kind['maxLength']} characters" if "maxLength" in kind else ""
    pattern = f" that matches {kind['pattern']}" if "pattern" in kind else ""
    return "a path" if kind.get("format") == "path" else f"text{length}{pattern}"


def _range(kind: Mapping[str, Any]) -> str:
    steps = f", a multiple of {kind['multipleOf']}" if "multipleOf" in kind else ""
    if "minimum" in kind and "maximum" in kind:
        return f" from {_as_typed(kind['minimum'])} to {_as_typed(kind['maximum'])}{steps}"
    words = {
        "minimum": "of at least",
        "exclusiveMinimum": "above",
        "maximum": "of at most",
        "exclusiveMaximum": "below",
    }
    limits = [f"{words[name]} {_as_typed(kind[name])}" for name in words if name in kind]
    return f" {' and '.join(limits)}{steps}".rstrip()


def _as_typed(value: object) -> str:
    """A value as one would write it on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | tuple):
        return ",".join(map(_as_typed, value)) or "none"
    return str(value)
