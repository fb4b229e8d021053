"""The base of every configuration model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import fsspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from data_tools.wording import one_line, shown

PYARROW_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
"""URI schemes opened by pyarrow; fsspec opens all others."""


def absolute_place(place: str) -> str:
    """Normalise a place: an absolute path with "~" expanded (also for ``file://``), or a URI without a final slash.

    Raises:
        ValueError: the URI's scheme is unknown, or no file can have that name.
    """
    _check_name(place)
    if "://" not in place:
        return str(absolute_path(Path(place)))
    scheme = place.partition("://")[0]
    if scheme == "file":
        return unquote(urlsplit(place).path).rstrip("/") or "/"
    if scheme not in {*PYARROW_SCHEMES, *fsspec.available_protocols()}:
        raise ValueError(f"{shown(place)}: neither pyarrow nor fsspec knows the scheme {one_line(scheme, 100)}://")
    base, mark, query = place.partition("?")
    return f"{base if base.endswith('://') else base.rstrip('/')}{mark}{query}"


def absolute_path(path: Path) -> Path:
    """A path made absolute, "~" expanded; raises ``ValueError`` where no file can have that name."""
    _check_name(str(path))
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # "~" of an unknown user
        raise ValueError(f"{shown(str(path))}: {error}") from None


def _check_name(path: str) -> None:
    """Refuse invalid names at once: the system would only later, and storage would be retried."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"{shown(path)} is not a path: it is not valid Unicode") from None
    if "\0" in path:
        raise ValueError(f"{shown(path)} is not a path: it contains a NUL")


AbsolutePath = Annotated[Path, AfterValidator(absolute_path)]
"""A path made absolute at once, because workers run in other folders."""

Place = Annotated[
    str,
    BeforeValidator(lambda place: str(place) if isinstance(place, Path) else place),
    AfterValidator(absolute_place),
    Field(json_schema_extra={"format": "path"}),
]
"""A folder given by the user, as an absolute path or a URI (s3://bucket/prefix): see data_tools/storage.py."""


@dataclass(frozen=True, slots=True)
class Rare:
    """Marks a field that few need: only ``--help all`` shows it."""


@dataclass(frozen=True, slots=True)
class MayChange:
    """Marks a field or a section that changes no result on the same world size: a run may resume with another value."""


def fields_that_may_change(options: type[BaseModel], place: str = "") -> Iterator[str]:
    """The dotted names of the fields and sections that are marked ``MayChange``."""
    for name, field in options.model_fields.items():
        if any(isinstance(mark, MayChange) for mark in field.metadata):
            yield f"{place}{name}"
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields_that_may_change(field.annotation, f"{place}{name}.")


class Options(BaseModel):
    """Frozen options. An unknown key is an error, and a field's docstring is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)
