"""From the command line to a recipe, and from errors to one message and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from ccvid.config import Recipe
from ccvid.training.stopping import EndedOnRequestError
from data_tools.documents import parse_yaml, place_of
from data_tools.errors import InputError
from data_tools.progress import all_kept, message
from data_tools.storage import StorageFolder
from data_tools.wording import one_line, shown
from ray_jobs.display import open_console
from video_backbones import BackboneError

RECIPES = Path(__file__).parent / "recipes"


MOST_PROBLEMS = 20
"""Of a recipe, told at once."""


class UsageError(InputError):
    """Wrong flags, values or recipe."""


class RecipeFlags(Recipe, BaseSettings):
    """Every field of a recipe as a flag."""

    model_config = SettingsConfigDict(cli_avoid_json=True, cli_hide_none_type=True, cli_use_class_docs_for_groups=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parse_recipe(
    arguments: Sequence[str], *, program: str, description: str, extra: argparse.ArgumentParser | None = None
) -> tuple[Recipe, argparse.Namespace]:
    """The recipe that ``--recipe`` names with the flags laid over it, and the job's own flags.

    Args:
        extra: a parser, made with ``add_help=False``, of flags that only this job has.

    Raises:
        UsageError: an unknown flag or key, a value out of range, a recipe that is not there; one line each.
        SystemExit: after ``--help``.
    """
    parser = _Parser(
        program,
        usage="%(prog)s [--recipe NAME_OR_FILE] [--SECTION.FIELD VALUE ...]",
        description=description,
        epilog=f"Recipes: {', '.join(recipe_names())}. What a recipe says goes before the defaults shown above.",
        parents=[extra] if extra else [],
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", default="synthetic", metavar="NAME_OR_FILE", help="a recipe, or a YAML file of one")
    source = CliSettingsSource[Any](RecipeFlags, cli_parse_args=list(arguments), root_parser=parser)
    flags = {name: value for name, value in source().items() if name in Recipe.model_fields}
    own = parser.parse_args(list(arguments))
    try:
        return Recipe.model_validate(_merge(read_recipe(own.recipe), flags)), own
    except ValidationError as error:
        found = error.errors(include_url=False)
        lines = [_describe(item, own.recipe, flags) for item in found[:MOST_PROBLEMS]]
        more = [f"and {len(found) - MOST_PROBLEMS} more"] if len(found) > MOST_PROBLEMS else []
        raise UsageError("\n".join([*lines, *more])) from None


def recipe_names() -> list[str]:
    """The recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name_or_file: str) -> dict[str, Any]:
    """A recipe's values as written; raises ``UsageError`` when there is none or it is not a YAML mapping."""
    return read_mapping("recipe", name_or_file, RECIPES, "a mapping of sections")


def read_mapping(flag: str, name_or_file: str, shipped: Path, expected: str) -> dict[str, Any]:
    """The values of a YAML file, which ``--flag`` names: one of the folder ``shipped``, a path, or a URI.

    Raises:
        UsageError: no such file, not readable, not YAML, or not the mapping that was ``expected``.
    """
    names = sorted(path.stem for path in shipped.glob("*.yaml"))
    path = str(shipped / f"{name_or_file}.yaml") if name_or_file in names else name_or_file
    try:
        file = StorageFolder(path)
        values = parse_yaml(file.parent.read(file.name), f"--{flag} {path}")
    except FileNotFoundError:
        raise UsageError(
            f"--{flag} {name_or_file}: no such file, and no {flag} of that name; {flag}s: {', '.join(names)}"
        ) from None
    except InputError as error:
        raise UsageError(str(error)) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"--{flag} {path}: cannot be read: {one_line(error)}") from None
    if not isinstance(values, dict) or not values:
        raise UsageError(f"--{flag} {path}: holds {shown(values)}, expected {expected}")
    return values


def write_config(recipe: Recipe) -> str:
    """The whole recipe as YAML: ``--recipe`` of such a file runs it again."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def show_results(folder: StorageFolder) -> None:
    """Show a run's table, where it scored something, and where its files lie."""
    names = folder.names()
    if "metrics.txt" in names:
        message(folder.read("metrics.txt").decode(errors="replace"))
    message(f"results: {folder}")
    for name in names:
        if name.startswith("rankings_") and name.endswith(".svg"):
            message(f"pictures: {folder / name}")
    for pages in ("report", "groups"):
        if folder.exists(f"{pages}/index.html"):
            message(f"{pages}: {folder / pages / 'index.html'}")


def run_job(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a job's ``main`` on the command line; what the user can mend ends in a message, not in a traceback.

    Exit codes: 0 done, 1 the data or the cluster, 2 the command line, 130 interrupted or ended as asked.
    """
    try:
        with open_console():
            main(sys.argv[1:])
    except UsageError as error:
        _fail(f"{error}\nSee --help for every flag.", 2)
    except (InputError, BackboneError) as error:
        _fail(str(error), 1)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        _fail(f"{error.filename or 'file system'}: {error.strerror}", 1)
    except EndedOnRequestError as ended:
        print(f"{ended}; the same command goes on from here{_what_is_kept()}", flush=True)
        sys.exit(130)
    except KeyboardInterrupt:
        _fail(f"interrupted; the same command goes on from here{_what_is_kept()}", 130)
    sys.exit(0)


def _what_is_kept() -> str:
    things = all_kept()
    return "".join(["\nkept:", *(f"\n  {thing}" for thing in things)]) if things else ""


def _fail(problem: str, code: int) -> NoReturn:
    sys.stdout.flush()
    print(f"error: {problem}", file=sys.stderr, flush=True)
    sys.exit(code)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _describe(error: Mapping[str, Any], recipe: str, flags: Mapping[str, Any]) -> str:
    """One problem; what no flag has set is the recipe's."""
    origin = "" if _is_flag(error["loc"], flags) else f"--recipe {recipe}: "
    place = place_of(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{origin}{place}: no such setting"
    message = one_line(str(error["msg"]).removeprefix("Value error, "))
    if error["type"] == "value_error":  # our own words: of one field, or of several that name them
        return f"{origin}{place}: {message}" if "." in place else f"{origin}{message}"
    return f"{origin}{place}: {message}, got {shown(error['input'])}"


def _is_flag(location: Sequence[object], flags: Mapping[str, Any]) -> bool:
    found: Any = flags
    for part in location:
        if not isinstance(found, Mapping):
            return True
        if part not in found:
            return False
        found = found[part]
    return bool(found)
