"""Untrusted JSON and YAML: parsed within bounds, or refused with a message that names the file."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from data_tools.errors import InputError
from data_tools.wording import cut, one_line, shown

MOST_YAML_BYTES = 2**18
"""A complete recipe has a fiftieth of this. PyYAML takes seconds for more."""
MOST_YAML_NODES = 50_000
"""Counted with every alias expanded, as any code that walks the document sees it."""
LONGEST_PLACE = 200

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Accepts integers of up to 64 bits: Python can read larger ones that it cannot print."""


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    value = loader.construct_yaml_int(node)
    if value.bit_length() > 63:
        raise ValueError(f"an integer of {value.bit_length()} bits, expected at most 63")
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def parse_json(content: bytes, place: object) -> Any:
    """Parse the JSON text ``content`` of the file ``place``.

    Raises:
        InputError: it is not JSON, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise InputError(f"{place}: not readable as JSON: it is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{place}: not readable as JSON: {one_line(error)}") from None


def parse_yaml(content: bytes, place: object) -> Any:
    """Parse the YAML text ``content`` of the file ``place``; None if it is empty.

    Raises:
        InputError: it is not YAML, or has more than ``MOST_YAML_BYTES`` or ``MOST_YAML_NODES`` nodes.
    """
    if len(content) > MOST_YAML_BYTES:
        size, most = len(content) // 1024, MOST_YAML_BYTES // 1024
        raise InputError(f"{place}: has {size} KiB, expected at most {most} KiB of YAML")
    loader = None
    try:
        loader = _Loader(content)
        root = loader.get_single_node()
        if root is None:
            return None
        if _count_nodes(root, {}) > MOST_YAML_NODES:
            raise InputError(f"{place}: its aliases expand to more than {MOST_YAML_NODES} values")
        return loader.construct_document(root)
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{place}: not readable as YAML: it is nested too deeply") from None
    except Exception as error:  # a tag that does not fit its text raises almost anything
        raise InputError(f"{place}: not readable as YAML: {one_line(error)}") from None
    finally:
        if loader is not None:
            loader.dispose()


def yaml_lines(content: bytes, locations: Iterable[Sequence[object]]) -> list[int | None]:
    """Find where keys are written in a text that ``parse_yaml`` has read.

    Args:
        content: the text.
        locations: of each key, the keys from the top down to it.

    Returns:
        For each the line, from 1; that of the last key above it for an entry of a list. None if no such key is written.
    """
    loader = _Loader(content)
    try:
        root = loader.get_single_node()
    finally:
        loader.dispose()
    return [_line_of(root, location) for location in locations]


def _line_of(node: yaml.Node | None, location: Sequence[object]) -> int | None:
    line = None
    for part in location:
        if not isinstance(node, yaml.MappingNode):
            break
        key, node = next((pair for pair in node.value if pair[0].value == str(part)), (None, None))
        line = key.start_mark.line + 1 if key else None
    return line


def _count_nodes(node: yaml.Node, known: dict[int, float]) -> float:
    """Number of nodes in a tree with its aliases expanded; infinite if a node contains itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_count_nodes(part, known) for part in parts)
    return known[id(node)]


def parse_model(model: type[Model], content: bytes, place: object) -> Model:
    """Parse a model from the JSON text ``content`` of the file ``place``.

    Raises:
        InputError: it is not JSON, or does not fit the model; the message names the field.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"{place}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation: the field, what was expected, and the value found."""
    first = error.errors(include_url=False, include_context=False)[0]
    found = "" if first["type"] in ("missing", "json_invalid") else f", got {shown(first['input'])}"
    return f"{place_of(first['loc'])}: {reason_of(first)}{found}"


def reason_of(problem: Mapping[str, Any]) -> str:
    """The message of one of pydantic's problems; of a validator of ours, its own words."""
    return one_line(str(problem["msg"]).removeprefix("Value error, "))


def place_of(location: Sequence[object]) -> str:
    """A location in a document, as keys joined by dots."""
    return cut(".".join(map(str, location)), LONGEST_PLACE) or "top level"


def differences(there: object, now: object, but: Collection[str] = frozenset(), place: str = "") -> list[str]:
    """A line for each value that differs between two documents, except what ``but`` names and all within it.

    Args:
        but: places, with points between the keys.
    """
    if place in but:
        return []
    if isinstance(there, Mapping) and isinstance(now, Mapping):
        return [
            line
            for name in dict.fromkeys([*there, *now])
            for line in differences(there.get(name), now.get(name), but, f"{place}.{name}".lstrip("."))
        ]
    return [] if there == now else [f"{cut(place, 100)}: {shown(there)} there, {shown(now)} now"]
