"""Which fields of a recipe a job reads, found in the source: in every function that the job's file leads to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ccvid.config import Recipe
from ccvid.method_choices import METHODS
from tests.jobs.head import ROOT

PACKAGES = ("ray_jobs", "ccvid", "data_tools", "video_backbones")
RECIPE_NAMES = ("recipe", "own", "seeded")
UNREACHED = {"tune": frozenset({"score_test_set"})}
"""Functions that a job never calls: trials are not scored on the test set."""

Definition = tuple[str, str]
"""Module and name of a function or class."""


def read_settings(job: str) -> set[str]:
    """What is read from recipes, dotted: ``optim.learning_rate``, or ``optim`` where the section is passed on."""
    chains = (chain for chain in _chains(job) if chain[0] in RECIPE_NAMES and chain[1] in Recipe.model_fields)
    return {".".join(part for part in chain[1:] if not part.startswith("model_")) for chain in chains}


def read_names(job: str) -> set[str]:
    """Every name that stands behind a dot in what the job may run."""
    return {name for chain in _chains(job) for name in chain[1:]}


@cache
def _chains(job: str) -> frozenset[tuple[str, ...]]:
    open_: list[Definition] = [(f"ray_jobs.{job}", "main")]
    done: set[Definition] = set()
    chains: set[tuple[str, ...]] = set()
    while open_:
        module, name = open_.pop()
        tree = _definitions(module).get(name)
        if tree is None and name in _bound_names(module):  # passed on by a package's __init__
            open_.append(_bound_names(module)[name])
        if tree is None or (module, name) in done or name in UNREACHED.get(job, ()):
            continue
        done.add((module, name))
        bound = _bound_names(module)
        if name == "build_training":  # finds its method by name
            rows = (row.builder.split(":") for row in METHODS.values())
            open_ += [(f"ccvid.training.{file}", function) for file, function in rows]
        for node in _walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                open_ += [(node.module, alias.name) for alias in node.names]
            elif isinstance(node, ast.Name):
                open_ += [bound.get(node.id, (module, node.id))]
            elif isinstance(node, ast.Attribute) and (chain := _chain(node)):
                chains.add(chain)
    return frozenset(chains)


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of pydantic's validators, which read all that they compare."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        decorators = [ast.unparse(each) for each in getattr(node, "decorator_list", [])]
        if not any("model_validator" in each for each in decorators):
            yield from _walk(node)


def _chain(node: ast.expr) -> tuple[str, ...]:
    """``self.recipe.optim.decay`` as (recipe, optim, decay): from the last name on that a recipe may have."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr.lstrip("_"))
        node = node.value
    names.insert(0, node.id if isinstance(node, ast.Name) else "")
    starts = [place for place, name in enumerate(names[:-1]) if name in RECIPE_NAMES]
    return tuple(names[starts[-1] :] if starts else names)


@cache
def _tree(module: str) -> ast.Module | None:
    path = ROOT / f"{module.replace('.', '/')}.py"
    path = path if path.exists() else Path(ROOT, *module.split("."), "__init__.py")
    return ast.parse(path.read_text()) if module.startswith(PACKAGES) and path.exists() else None


@cache
def _definitions(module: str) -> dict[str, ast.AST]:
    found: dict[str, ast.AST] = {}
    for node in getattr(_tree(module), "body", []):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):  # an alias, a table of functions
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


@cache
def _bound_names(module: str) -> dict[str, Definition]:
    """Names that the module imports from elsewhere, anywhere in it."""
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(_tree(module) or ast.Module([], []))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
