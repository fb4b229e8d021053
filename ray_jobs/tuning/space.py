"""The search space: the recipe fields that a search draws, and their values."""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ccvid.config import Recipe
from data_tools.documents import reason_of
from data_tools.wording import shown
from ray_jobs.begun_runs import MAY_CHANGE
from ray_jobs.cli import UsageError, read_mapping

SPACES = Path(__file__).parents[1] / "spaces"

Kind = Literal["choices", "range", "log_range"]
KINDS: tuple[Kind, ...] = ("choices", "range", "log_range")

REFUSED = {
    "data.": "each value would need other shards",
    "score.": "trials would be scored in different ways",
    "train.held_out_share": "trials would be scored on different identities",
    "train.validate_every": "trials would be scored at different epochs",
    "train.test_weights": "it decides which score of a trial counts",
}
"""Prefixes of fields that cannot be searched, besides those that change no result, and why."""

TRIES = 20
"""Random settings of the other fields to try before a value counts as impossible."""

Values = dict[str, Any]
"""A drawn value for each searched field, by its dotted name, as in a recipe's YAML."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One searched field: ``values`` are its choices, or the two ends of its range (inclusive)."""

    name: str
    kind: Kind
    values: tuple[Any, ...]
    integer: bool = False

    @property
    def count(self) -> int | None:
        """Number of values; None for a range of floats."""
        if self.kind == "choices":
            return len(self.values)
        return self.values[1] - self.values[0] + 1 if self.integer else None

    def all_values(self) -> Sequence[Any]:
        """All values of a field with finitely many."""
        return self.values if self.kind == "choices" else range(self.values[0], self.values[1] + 1)

    def takes(self, value: object) -> bool:
        """Whether it could be drawn."""
        if self.kind == "choices":
            return value in self.values
        kinds = (int,) if self.integer else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.values[0] <= value <= self.values[1]

    def draw(self, generator: random.Random) -> Any:
        """A value, uniform over the choices, the range, or the logarithm of the range."""
        if self.kind == "choices":
            return self.values[generator.randrange(len(self.values))]
        low, high = self.values
        if self.kind == "range":
            return generator.randint(low, high) if self.integer else generator.uniform(low, high)
        drawn = math.exp(generator.uniform(math.log(low), math.log(high)))
        return min(high, max(low, round(drawn) if self.integer else drawn))


@dataclass(frozen=True, slots=True)
class Space:
    """The searched fields, in the file's order."""

    parameters: tuple[Parameter, ...]

    @property
    def count(self) -> int | None:
        """Number of settings; None if any field has a range of floats."""
        counts = [parameter.count for parameter in self.parameters]
        return None if None in counts else math.prod(count for count in counts if count is not None)

    def draw(self, generator: random.Random) -> Values:
        """A value for each field."""
        return {parameter.name: parameter.draw(generator) for parameter in self.parameters}

    def takes(self, values: Values) -> bool:
        """Whether it could be drawn."""
        return len(values) == len(self.parameters) and all(
            parameter.name in values and parameter.takes(values[parameter.name]) for parameter in self.parameters
        )

    def grid(self) -> Iterator[Values]:
        """Every setting; the last field changes fastest."""
        names = [parameter.name for parameter in self.parameters]
        for values in product(*(parameter.all_values() for parameter in self.parameters)):
            yield dict(zip(names, values, strict=True))

    def describe(self) -> dict[str, dict[str, list[Any]]]:
        """The space in the format of its file."""
        return {parameter.name: {parameter.kind: list(parameter.values)} for parameter in self.parameters}

    def largest(self, name: str, otherwise: float) -> float:
        """The largest possible value of a number field; ``otherwise`` if it is not searched."""
        return max((max(each.values) for each in self.parameters if each.name == name), default=otherwise)


def space_names() -> list[str]:
    """The spaces that come with the project."""
    return sorted(path.stem for path in SPACES.glob("*.yaml"))


def read_space(name_or_file: str, recipe: Recipe) -> Space:
    """Read a space and check it against the recipe whose fields it changes.

    Raises:
        UsageError: there is no such file, it is not YAML, a field is unknown or cannot be searched, or a value is not
            valid.
    """
    content = read_mapping("space", name_or_file, SPACES, f"a mapping such as {_EXAMPLE}")
    try:
        parameters = [_parameter(name, spec) for name, spec in content.items()]
        space = Space(tuple(_as_recipe_has_it(parameter, recipe) for parameter in parameters))
        _check_values(space, recipe)
    except _SpaceError as error:
        raise UsageError(f"--space {name_or_file}: {error}") from None
    return space


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with the searched fields set; raises pydantic's ``ValidationError``."""
    content = recipe.model_dump()
    for name, value in values.items():
        *sections, field = name.split(".")
        section = content
        for part in sections:
            section = section[part]
        section[field] = value
    return Recipe.model_validate(content)


_EXAMPLE = "`optim.learning_rate: {log_range: [0.0001, 0.01]}`"


class _SpaceError(ValueError):
    pass


def _parameter(name: object, spec: object) -> Parameter:
    annotation = _annotation(str(name))
    if not (isinstance(spec, dict) and len(spec) == 1 and (kind := next(iter(spec))) in KINDS):
        raise _SpaceError(f"{name}: {shown(spec)}, expected one of {{choices: [...]}}, {{range: [low, high]}}, "
                          "{log_range: [low, high]}")  # fmt: skip
    values = spec[kind]
    if kind == "choices":
        if not isinstance(values, list) or not values:
            raise _SpaceError(f"{name}: choices {shown(values)}, expected a list with at least one value")
        return Parameter(str(name), kind, tuple(values))
    types = set(_types(annotation)) & {int, float}
    if not types:
        raise _SpaceError(f"{name}: is not a number, so it cannot have a {kind}; list its choices")
    low, high = _ends(f"{name}: {kind}", values)
    integer = types == {int}
    if integer and not (low.is_integer() and high.is_integer()):
        raise _SpaceError(f"{name}: {kind} {shown(values)}, expected whole numbers")
    if kind == "log_range" and low <= 0:
        raise _SpaceError(f"{name}: log_range {shown(values)}, expected both above 0")
    return Parameter(str(name), kind, (int(low), int(high)) if integer else (low, high), integer)


def _ends(place: str, values: object) -> tuple[float, float]:
    if isinstance(values, list) and len(values) == 2 and not any(isinstance(value, bool) for value in values):
        try:
            low, high = (float(value) for value in values)  # YAML reads 1e-3, which has no point, as text
        except (TypeError, ValueError, OverflowError):
            low = high = math.nan
        if math.isfinite(low) and math.isfinite(high) and low < high:
            return low, high
    raise _SpaceError(f"{place} {shown(values)}, expected [low, high], two numbers with low below high")


def _annotation(name: str) -> Any:
    """The type of a recipe's field."""
    model: Any = Recipe
    for part in name.split("."):
        fields = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
        if part not in fields:
            close = difflib.get_close_matches(name, list(_field_names(Recipe)), n=1)
            raise _SpaceError(f"{name}: a recipe has no such field" + (f"; did you mean {close[0]}?" if close else ""))
        model = fields[part].annotation
    reasons = {**dict.fromkeys(MAY_CHANGE, "it changes no result"), **REFUSED}
    for begin, reason in reasons.items():
        if f"{name}.".startswith(f"{begin.rstrip('.')}."):
            raise _SpaceError(f"{name}: cannot be searched: {reason}")
    if isinstance(model, type) and issubclass(model, BaseModel):
        raise _SpaceError(
            f"{name}: is a section; name one of its fields, such as {name}.{next(iter(model.model_fields))}"
        )
    return model


def _field_names(model: type[BaseModel], place: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _field_names(inner, f"{place}{name}.")
        else:
            yield f"{place}{name}"


def _types(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _types(part)
    else:
        yield annotation


def _as_recipe_has_it(parameter: Parameter, recipe: Recipe) -> Parameter:
    """Choices converted to the field's type (YAML's 1e-3 is text), without duplicates."""
    if parameter.kind != "choices":
        return parameter
    kept: list[Any] = []
    for value in parameter.values:
        try:
            section: Any = with_values(recipe, {parameter.name: value}).model_dump(mode="json")
        except ValidationError:  # reported by _check_values, which also tries other fields' values
            kept.append(value)
            continue
        for part in parameter.name.split("."):
            section = section[part]
        if section in kept:
            raise _SpaceError(f"{parameter.name}: duplicate choice {shown(value)}")
        kept.append(section)
    return Parameter(parameter.name, parameter.kind, tuple(kept))


def _check_values(space: Space, recipe: Recipe) -> None:
    """Check that each choice and each end of a range is possible with some values of the other fields."""
    for parameter in space.parameters:
        for value in parameter.values:
            if problem := _problem_alone(recipe, parameter.name, value):
                raise _SpaceError(f"{parameter.name}: cannot be {shown(value)}: {problem}")
    generator = random.Random(0)
    for parameter in space.parameters:
        for value in parameter.values:
            problems: list[str] = []
            while len(problems) < TRIES:
                try:
                    with_values(recipe, {**space.draw(generator), parameter.name: value})
                    break
                except ValidationError as error:
                    problems.append(reason_of(error.errors()[0]))
            else:
                raise _SpaceError(f"{parameter.name}: cannot be {shown(value)} in this space: {problems[0]}")


def _problem_alone(recipe: Recipe, name: str, value: object) -> str | None:
    """Why a field does not accept a value, regardless of the other fields; None if it does."""
    try:
        with_values(recipe, {name: value})
    except ValidationError as error:
        place = tuple(name.split("."))
        if any(item["loc"][: len(place)] == place for item in error.errors()):
            return reason_of(error.errors()[0])
    return None
