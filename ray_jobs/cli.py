"""From the command line to a recipe, and from errors to one message and an exit code."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, get_args

import yaml
from pydantic import ValidationError

from ccvid.config import Recipe
from ccvid.run_files import GROUPS_FOLDER, PERSONS_FOLDER, REPORT_FOLDER, TABLES_FILE, rankings_file
from ccvid.setting_kinds import DatasetKind
from ccvid.training.stopping import EndedOnRequestError
from data_tools.documents import parse_yaml, place_of, reason_of, yaml_lines
from data_tools.errors import InputError
from data_tools.options import absolute_path
from data_tools.progress import all_kept, message
from data_tools.storage import StorageFolder
from data_tools.wording import one_line, shown
from ray_jobs.display import open_console
from ray_jobs.recipe_flags import by_todays_names, nearest, recipe_fields, recipe_sections
from video_backbones import BackboneError

RECIPES = Path(__file__).parent / "recipes"
DEFAULT_RECIPE = "synthetic"

EVERY_SECTION = tuple(Recipe.model_fields)

MOST_PROBLEMS = 20
"""Of a recipe, shown at once."""

WIDEST_HELP, FLAG_WIDTH = 120, 36
"""Columns."""


class UsageError(InputError):
    """Wrong flags, values or recipe."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        width = min(WIDEST_HELP, shutil.get_terminal_size((WIDEST_HELP, 0)).columns)
        super().__init__(prog, max_help_position=FLAG_WIDTH, width=width)


def parse_recipe(
    arguments: Sequence[str],
    *,
    program: str,
    description: str,
    reads: Collection[str] = EVERY_SECTION,
    extra: argparse.ArgumentParser | None = None,
    defaults: Mapping[str, Callable[[Any], object]] = MappingProxyType({}),
) -> tuple[Recipe, argparse.Namespace]:
    """The recipe that ``--recipe`` names with the flags laid over it, and the job's own flags.

    Args:
        arguments: the command line after the program's name.
        program: the job's file name.
        description: what the job does.
        reads: the sections and fields that the job reads, which its ``--help`` shows.
        extra: a parser, made with ``add_help=False``, of flags that only this job has.
        defaults: what the job makes of the recipe's values of some fields, for its help.

    Raises:
        UsageError: an unknown flag or key, a value out of range, a recipe that is not there; one line each.
        SystemExit: after ``--help``.
    """
    common = _common_flags()
    first, _ = common.parse_known_args(arguments)
    file = _read_recipe(first.recipe)
    parser = _Parser(
        program,
        usage="%(prog)s [--recipe NAME_OR_FILE] [--SECTION.FIELD VALUE ...]",
        description=description,
        epilog=f"Recipes: {', '.join(recipe_names())}.",
        parents=[extra, common] if extra else [common],
        add_help=False,
        allow_abbrev=False,
        formatter_class=_HelpFormatter,
    )
    in_full = first.help == "all"
    _add_fields(parser, file.values, defaults, shown_fields(file.values, reads, in_full=in_full), in_full=in_full)
    if first.help:
        parser.print_help()
        raise SystemExit(0)
    _refuse_unknown_flags(arguments, parser._option_string_actions)
    own = parser.parse_args(list(arguments))
    flags = _recipe_flags(own)
    try:
        return Recipe.model_validate(_merge(file.values, flags)), own
    except ValidationError as error:
        raise UsageError(_describe_all(error, file, flags)) from None


def _common_flags() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--recipe",
        default=DEFAULT_RECIPE,
        metavar="NAME_OR_FILE",
        help=f"recipe of the project, or a YAML file. Default: {DEFAULT_RECIPE}",
    )
    parser.add_argument(
        "-h",
        "--help",
        nargs="?",
        const=True,
        choices=("all",),
        metavar="all",
        help="common flags; --help all: every flag, explained in full",
    )
    return parser


def _recipe_flags(own: argparse.Namespace) -> dict[str, Any]:
    """The values of the recipe's flags, which are left in ``own`` as the last text of each."""
    flags: dict[str, Any] = {}
    for name, field in recipe_fields().items():
        if texts := vars(own).get(name):
            try:
                _set(flags, name, field.read(texts))
            except InputError as error:
                raise UsageError(str(error)) from None
            setattr(own, name, texts[-1])
    return flags


def place_flag(text: str) -> StorageFolder:
    """The value of a flag that names a folder or a file, by its path or URI."""
    try:
        return StorageFolder(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def path_flag(text: str) -> Path:
    """The value of a flag that names a file of this machine."""
    try:
        return absolute_path(Path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole_number_flag(most: int) -> Callable[[str], int]:
    """The value of a flag that takes a whole number from 1 to ``most``."""

    def read(text: str) -> int:
        if not (text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {most}, got {shown(text)}")
        return int(text)

    return read


def shown_fields(recipe: Mapping[str, Any], reads: Collection[str], *, in_full: bool) -> list[str]:
    """The fields that a job's help shows: with ``in_full`` all of them, else those in use among those that it reads.

    How data of another kind than the recipe's is read, and what is marked as rare, are not in use.
    """
    fields = recipe_fields()
    if in_full:
        return list(fields)
    kind = _get(recipe, "data.kind") or Recipe.model_fields["data"].get_default().kind
    others = tuple(f"data.{other}." for other in get_args(DatasetKind) if other != kind)
    return [
        name
        for name, field in fields.items()
        if f"{name}.".startswith(tuple(f"{section}." for section in reads))
        and not name.startswith(others)
        and not field.rare
    ]


def recipe_names() -> list[str]:
    """The recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name_or_file: str) -> dict[str, Any]:
    """A recipe's values, by today's names; raises ``UsageError`` when there is none or it is not a YAML mapping."""
    return _read_recipe(name_or_file).values


def read_mapping(flag: str, name_or_file: str, shipped: Path, expected: str) -> dict[str, Any]:
    """The values of a YAML file, which ``--flag`` names: one of the folder ``shipped``, a path, or a URI.

    Raises:
        UsageError: no such file, not readable, not YAML, or not the mapping that was ``expected``.
    """
    return _read_file(flag, name_or_file, shipped, expected).values


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    """As the flag has it."""
    content: bytes
    values: dict[str, Any]


def _read_file(flag: str, name_or_file: str, shipped: Path, expected: str) -> _File:
    names = sorted(path.stem for path in shipped.glob("*.yaml"))
    path = str(shipped / f"{name_or_file}.yaml") if name_or_file in names else name_or_file
    try:
        file = StorageFolder(path)
        content = file.parent.read(file.name)
        values = parse_yaml(content, f"--{flag} {path}")
    except FileNotFoundError:
        raise UsageError(
            f"--{flag} {name_or_file}: no such file, and no {flag} of that name; {flag}s: {', '.join(names)}"
            f"{nearest(name_or_file, names)}"
        ) from None
    except InputError as error:
        raise UsageError(str(error)) from None
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise UsageError(f"--{flag} {path}: cannot be read: {reason}") from None
    if not isinstance(values, dict) or not values:
        raise UsageError(f"--{flag} {path}: holds {shown(values)}, expected {expected}")
    return _File(name_or_file, content, values)


def _read_recipe(name_or_file: str) -> _File:
    file = _read_file("recipe", name_or_file, RECIPES, "a mapping of sections")
    try:
        return replace(file, values=by_todays_names(file.values))
    except InputError as error:
        raise UsageError(f"--recipe {name_or_file}: {error}") from None


def write_config(recipe: Recipe) -> str:
    """The whole recipe as YAML: ``--recipe`` of such a file runs it again."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def show_results(folder: StorageFolder) -> None:
    """Show a run's table, where it scored something, and where its files lie."""
    names = folder.names()
    if TABLES_FILE in names:
        message(folder.read(TABLES_FILE).decode(errors="replace"))
    message(f"results: {folder}")
    for name in names:
        if fnmatch(name, rankings_file("*", "svg")):
            message(f"pictures: {folder / name}")
    for pages in (REPORT_FOLDER, GROUPS_FOLDER, PERSONS_FOLDER):
        if folder.exists(f"{pages}/index.html"):
            message(f"{pages}: {folder / pages / 'index.html'}")


def run_job(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a job's ``main`` on the command line; a user's mistake ends in a message, not in a traceback.

    Exit codes: 0 done, 1 the data or the cluster, 2 the command line, 130 interrupted or stopped on request.
    """
    try:
        with open_console():
            main(sys.argv[1:])
    except UsageError as error:
        _fail(f"{error}\nSee --help, or --help all for every flag.", 2)
    except (InputError, BackboneError) as error:
        _fail(str(error), 1)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        _fail(f"{error.filename or 'file system'}: {error.strerror}", 1)
    except EndedOnRequestError as ended:
        print(f"{ended}; run the same command to resume{_what_is_kept()}", flush=True)
        sys.exit(130)
    except KeyboardInterrupt:
        _fail(f"interrupted; run the same command to resume{_what_is_kept()}", 130)
    sys.exit(0)


def _what_is_kept() -> str:
    things = all_kept()
    return "".join(["\nkept:", *(f"\n  {thing}" for thing in things)]) if things else ""


def _fail(problem: str, code: int) -> NoReturn:
    sys.stdout.flush()
    print(f"error: {problem}", file=sys.stderr, flush=True)
    sys.exit(code)


def _add_fields(
    parser: argparse.ArgumentParser,
    recipe: Mapping[str, Any],
    defaults: Mapping[str, Callable[[Any], object]],
    visible: Collection[str],
    *,
    in_full: bool,
) -> None:
    """Add a flag for each field, grouped by section, with help if it is ``visible``."""
    groups: dict[str, Any] = {}
    for name, field in recipe_fields().items():
        section = name.rpartition(".")[0] if in_full else name.partition(".")[0]
        if name in visible and section not in groups:
            groups[section] = parser.add_argument_group(f"{section} ({recipe_sections()[section].removesuffix('.')})")
        value = _get(recipe, name, field.default)
        if name in defaults:
            value = defaults[name](value)
        text = field.explain(value, in_full=in_full).replace("%", "%%")
        groups.get(section, parser).add_argument(
            f"--{name}",
            action="append",
            default=argparse.SUPPRESS,
            metavar=field.metavar,
            help=text if name in visible else argparse.SUPPRESS,
        )


def _refuse_unknown_flags(arguments: Sequence[str], known: Collection[str]) -> None:
    """Before argparse, which would first miss the required flag that one of them may be meant for."""
    given = (argument.partition("=")[0] for argument in arguments if re.match(r"--?[A-Za-z]", argument))
    if unknown := [flag for flag in given if flag not in known]:
        raise UsageError("\n".join(f"{flag}: no such flag{nearest(flag, known)}" for flag in unknown))


def _get(values: Any, name: str, default: Any = None) -> Any:
    """The value at a dotted name; ``default`` where there is none."""
    for part in name.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return default
        values = values[part]
    return values


def _set(values: dict[str, Any], name: str, value: object) -> None:
    *sections, field = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[field] = value


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _describe_all(error: ValidationError, file: _File, flags: Mapping[str, Any]) -> str:
    """The first problems, a line each; what no flag has set is the recipe's."""
    found = error.errors(include_url=False)
    first = found[:MOST_PROBLEMS]
    numbers = yaml_lines(file.content, [item["loc"] for item in first])
    places = [f"--recipe {file.name}:{line}: " if line else f"--recipe {file.name}: " for line in numbers]
    lines = [
        _describe(item, None if _is_flag(item["loc"], flags) else place)
        for item, place in zip(first, places, strict=True)
    ]
    more = [f"and {len(found) - MOST_PROBLEMS} more"] if len(found) > MOST_PROBLEMS else []
    return "\n".join([*dict.fromkeys(lines), *more])  # a union has a problem for each of its kinds


def _describe(error: Mapping[str, Any], origin: str | None) -> str:
    """One problem, in one line; ``origin`` is None for what a flag has set."""
    location, fields = error["loc"], recipe_fields()
    names = [".".join(map(str, location[:length])) for length in range(1, len(location) + 1)]
    name = next((name for name in names if name in fields), None)
    place = name if name and not fields[name].holds_models else place_of(location) if location else ""
    if origin is None:
        origin = "--" if name else ""
    reason = reason_of(error)
    if error["type"] == "extra_forbidden":
        return f"{origin}{place}: no such setting{'' if name else nearest(place, [*fields, *recipe_sections()])}"
    if error["type"] == "missing":
        return f"{origin}{place}: not set" + (f"; add it there, or name --{name}" if name == place else "")
    if error["type"] == "value_error":  # our own words, which name the fields that do not fit one another
        return f"{origin}{place}: {reason}" if "." in place else f"{origin}{reason}"
    if name == place:
        reason = f"expected {fields[place].expected}"
    elif place in recipe_sections():
        reason = "expected a mapping of settings"
    return f"{origin}{place}: {reason}, got {shown(error['input'])}"


def _is_flag(location: Sequence[object], flags: Mapping[str, Any]) -> bool:
    found: Any = flags
    for part in location:
        if not isinstance(found, Mapping):
            return True
        if part not in found:
            return False
        found = found[part]
    return bool(found) if isinstance(found, Mapping) else True
