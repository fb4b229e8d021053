"""Whether a run fits the GPUs' memory, said before its workers start.

    python -m ray_jobs.training.memory [RECIPE ...] [--workers N] [--persons N] [--clothes N]

prints what recipes need, as a table in Markdown, on any machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import BaseModel

from ccvid.config import Recipe
from ccvid.method_choices import METHODS
from ccvid.training.memory import MemoryEstimate, estimate_memory
from data_tools.errors import InputError
from data_tools.progress import message
from ray_jobs.cli import read_recipe

GIB = 2**30
BESIDE = GIB
"""What a process takes of a GPU besides tensors: CUDA itself and the work space of its libraries, roughly."""
FEWEST_BINS = 8

Estimator = Callable[[Recipe], MemoryEstimate | None]


@dataclass(frozen=True, slots=True)
class Saving:
    """A setting that saves memory, and the bytes that a step needs with it and those before it."""

    setting: str
    value: object
    needed: int


def check_memory(recipe: Recipe, persons: int, clothes: int, *, workers: int, gpu_bytes: int) -> None:
    """Say what a step needs of the smallest GPU; nothing where that cannot be estimated.

    Raises:
        InputError: what no smaller batch can lower is more than the GPU has.
    """
    estimator = partial(estimate_memory, persons=persons, clothes=clothes, workers=workers)
    estimate = estimator(recipe)
    if estimate is None:
        return
    if estimate.fixed > gpu_bytes:
        raise InputError(too_large(estimate, gpu_bytes))
    room = gpu_bytes - BESIDE
    savings = [] if estimate.total <= room else list(find_savings(recipe, estimate.total, room, estimator))
    message(in_words(estimate.total, gpu_bytes, savings))


def find_savings(recipe: Recipe, needed: int, room: int, estimator: Estimator) -> Iterator[Saving]:
    """Settings that save memory, in the order of what they cost, each on top of those before, until it fits."""
    for propose in (_precision, _checkpointing, _parts, _method_settings):
        for setting, value in propose(recipe, room, estimator):
            changed = with_setting(recipe, setting, value)
            estimate = estimator(changed)
            if estimate is None or estimate.total >= needed:  # a network that cannot, or that gains nothing
                break
            recipe, needed = changed, estimate.total
            yield Saving(setting, value, needed)
            if needed <= room:
                return


def with_setting(options: Any, setting: str, value: object) -> Any:
    """The same recipe with one setting changed, such as "train.bf16"."""
    assert isinstance(options, BaseModel)
    first, _, rest = setting.partition(".")
    inner = with_setting(getattr(options, first), rest, value) if rest else value
    return options.model_copy(update={first: inner})


def in_words(needed: int, gpu_bytes: int, savings: list[Saving]) -> str:
    """One line: that it fits, or what to set, in the order of ``savings``."""
    if needed <= gpu_bytes - BESIDE:
        return f"a training step needs about {_gib(needed)} GiB of the GPU's {_gib(gpu_bytes)}"
    line = (
        f"warning: a training step needs about {_gib(needed)} GiB of the GPU's {_gib(gpu_bytes)}, so memory may run out"
    )
    if savings:
        steps = ", ".join(f"--{each.setting} {_value(each.value)} ({_gib(each.needed)} GiB)" for each in savings)
        line += f"; set, one on top of the other: {steps}"
    if not savings or savings[-1].needed > gpu_bytes - BESIDE:
        line += "; then use fewer or shorter clips (batch.identities, clip.length) or a smaller model.backbone"
    return line


def too_large(estimate: MemoryEstimate, gpu_bytes: int) -> str:
    """Why no batch fits, and what is left to do."""
    held = {
        "weights": estimate.network + estimate.heads + estimate.average,
        "gradients": estimate.gradients + estimate.buckets,
        "optimizer states": estimate.optimizer,
    }
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in held.items())
    return (
        f"weights, gradients and optimizer states need {_gib(estimate.fixed)} GiB before any batch ({parts}), and the "
        f"GPU has {_gib(gpu_bytes)}; use a larger GPU, a smaller model.backbone, a smaller head of the method, or "
        "--optim.name sgd, which has one state for each weight where adam has two"
    )


def _precision(recipe: Recipe, room: int, estimator: Estimator) -> Iterator[tuple[str, object]]:  # noqa: ARG001
    if recipe.train.bf16 is not True:
        yield "train.bf16", True


def _checkpointing(recipe: Recipe, room: int, estimator: Estimator) -> Iterator[tuple[str, object]]:  # noqa: ARG001
    if not recipe.model.checkpoint_blocks:
        yield "model.checkpoint_blocks", True


def _parts(recipe: Recipe, room: int, estimator: Estimator) -> Iterator[tuple[str, object]]:
    """The smallest number of parts that fits, or all: memory grows evenly with the clips of a part."""
    clips = recipe.batch.identities * recipe.batch.clips
    numbers = range(max(2, recipe.train.batch_parts + 1), clips + 1)
    if not numbers:
        return
    few, more = numbers[0], numbers[min(2, len(numbers) - 1)]
    found = [estimator(with_setting(recipe, "train.batch_parts", number)) for number in (few, more)]
    if found[0] is None or found[1] is None:
        return
    size_few, size_more = -(-clips // few), -(-clips // more)
    slope = (found[0].total - found[1].total) / max(1, size_few - size_more)
    fitting = (number for number in numbers if found[0].total + slope * (-(-clips // number) - size_few) <= room)
    yield "train.batch_parts", next(fitting, clips)


def _method_settings(recipe: Recipe, room: int, estimator: Estimator) -> Iterator[tuple[str, object]]:  # noqa: ARG001
    """Sizes of the method's own heads, halved in turn."""
    for setting in METHODS[recipe.method.name].head_sizes:
        value: Any = recipe
        for name in setting.split("."):
            value = getattr(value, name)
        while (value := value // 2) >= FEWEST_BINS:
            yield setting, value


def _gib(size: float) -> str:
    return f"{size / GIB:.{0 if size >= 10 * GIB else 1}f}"


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def main(arguments: list[str] | None = None) -> None:
    """Print what recipes need on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--persons", type=int, default=75, help="training identities; default: CCVID's")
    parser.add_argument("--clothes", type=int, default=150, help="their outfits")
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("SECTION.FIELD", "VALUE"))
    own = parser.parse_args(arguments)
    print("| recipe | weights | gradients | optimizer | buckets | activations | GiB in all | on 40 GiB | on 80 GiB |")
    print("|" + "---|" * 9)
    for name in own.recipes:
        recipe = _read(name, own.set)
        estimate = estimate_memory(recipe, own.persons, own.clothes, workers=own.workers)
        print(f"| {name} | {_row(estimate) if estimate else 'cannot be estimated'} |", flush=True)


def _read(name: str, settings: list[list[str]]) -> Recipe:
    """The recipe with these settings, its precision that of a GPU where it is auto."""
    values = read_recipe(name)
    values["data"] = {**values.get("data", {}), "shards": "/not/read"}
    for setting, value in settings:
        section, _, field = setting.partition(".")
        values[section] = {**values.get(section, {}), field: value}
    recipe = Recipe.model_validate(values)
    return recipe.with_bf16(recipe.train.bf16 is not False)


def _row(estimate: MemoryEstimate) -> str:
    sizes = (
        estimate.network + estimate.heads + estimate.average,
        estimate.gradients,
        estimate.optimizer,
        estimate.buckets,
        estimate.activations,
        estimate.total,
    )
    fits = ("yes" if estimate.total <= gibibytes * GIB - BESIDE else "**no**" for gibibytes in (40, 80))
    return " | ".join([*map(_gib, sizes), *fits])


if __name__ == "__main__":
    main()
