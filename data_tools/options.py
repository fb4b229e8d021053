"""The base of every configuration model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import fsspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

PYARROW_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
"""Of the URIs that pyarrow opens; the others are fsspec's."""


def absolute_place(place: str) -> str:
    """A path made absolute, "~" expanded; a URI without the slash at its end, ``file://`` made a path.

    Raises:
        ValueError: nothing knows the URI's scheme.
    """
    if "://" not in place:
        return str(Path(place).expanduser().absolute())
    scheme = place.partition("://")[0]
    if scheme == "file":
        return unquote(urlsplit(place).path).rstrip("/") or "/"
    if scheme not in {*PYARROW_SCHEMES, *fsspec.available_protocols()}:
        raise ValueError(f"{place!r}: neither pyarrow nor fsspec knows the scheme {scheme}://")
    base, mark, query = place.partition("?")
    return f"{base if base.endswith('://') else base.rstrip('/')}{mark}{query}"


AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
"""A path as the user wrote it, made absolute at once: workers run in folders of their own."""

Place = Annotated[
    str,
    BeforeValidator(lambda place: str(place) if isinstance(place, Path) else place),
    AfterValidator(absolute_place),
]
"""A folder as the user named it, an absolute path or a URI (s3://bucket/prefix): see data_tools/storage.py."""


class Options(BaseModel):
    """Frozen options; an unknown key is an error, and every field's docstring is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)
