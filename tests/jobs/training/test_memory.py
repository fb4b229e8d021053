"""What a run is told about its GPUs' memory before it starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ccvid.config import Recipe
from ccvid.training.memory import MemoryEstimate
from data_tools.errors import InputError
from ray_jobs.cluster import machines
from ray_jobs.cluster.machines import Machine, precision_and_memory
from ray_jobs.training import memory
from ray_jobs.training.memory import GIB, Saving, check_memory, find_savings, in_words

Pretend = Callable[..., list[Recipe]]


def recipe(**sections: dict[str, Any]) -> Recipe:
    csci = {"name": "csci", "csci": {"colours": {"planes": "mean", "bins": 64}}}
    model = {"backbone": "csci_video/eva_slim", "weights": "random", "height": 32, "width": 16}
    return Recipe.model_validate({"method": csci, "model": model, "batch": {"identities": 4, "clips": 2}, **sections})


def estimate(fixed: float, activations: float) -> MemoryEstimate:
    """In GiB."""
    network, activations = int(fixed * GIB), int(activations * GIB)
    return MemoryEstimate(
        network=network, heads=0, average=0, gradients=0, optimizer=0, buckets=0, activations=activations
    )


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """A network of 8 GiB and a head that grows with its bins, with 48 GiB of activations, which each setting lowers."""

    def pretended(*, recomputes: bool = True, known: bool = True) -> list[Recipe]:
        asked: list[Recipe] = []

        def made_up(recipe: Recipe, persons: int, clothes: int, *, workers: int) -> MemoryEstimate | None:
            assert (persons, clothes, workers) == (75, 150, 2)
            asked.append(recipe)
            if not known or (recipe.model.checkpoint_blocks and not recomputes):
                return None
            clips = -(-8 // recipe.train.batch_parts)
            held = 6 * clips * (1 if recipe.train.bf16 is not True else 0.75)
            held *= 0.5 if recipe.model.checkpoint_blocks else 1
            return estimate(8 + 4 * (recipe.method.own.colours.bins / 64) ** 4, 1 + held)  # type: ignore[union-attr]

        monkeypatch.setattr(memory, "estimate_memory", made_up)
        return asked

    return pretended


def told(recipe: Recipe, gibibytes: int, capsys: pytest.CaptureFixture[str]) -> str:
    check_memory(recipe, 75, 150, workers=2, gpu_bytes=gibibytes * GIB)
    return capsys.readouterr().out.strip()


def test_what_fits_is_one_short_line(pretend: Pretend, capsys: pytest.CaptureFixture[str]) -> None:
    asked = pretend()
    assert told(recipe(), 80, capsys) == "a training step needs about 61 GiB of the GPU's 80"
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("gibibytes", "settings"),
    [
        (51, "--train.bf16 true (49 GiB)"),
        (40, "--train.bf16 true (49 GiB), --model.checkpoint_blocks true (31 GiB)"),
        (24, "--train.bf16 true (49 GiB), --model.checkpoint_blocks true (31 GiB), --train.batch_parts 2 (22 GiB)"),
        (
            17,
            "--train.bf16 true (49 GiB), --model.checkpoint_blocks true (31 GiB), --train.batch_parts 8 (15 GiB)",
        ),
        (
            13,
            "--train.bf16 true (49 GiB), --model.checkpoint_blocks true (31 GiB), --train.batch_parts 8 (15 GiB), "
            "--method.csci.colours.bins 32 (12 GiB)",
        ),
    ],
)
def test_what_to_set_in_the_order_of_what_it_costs(
    gibibytes: int, settings: str, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend()
    start = f"warning: a training step needs about 61 GiB of the GPU's {gibibytes}, so memory may run out"
    assert told(recipe(), gibibytes, capsys) == f"{start}; set, one on top of the other: {settings}"


def test_what_is_set_or_impossible_is_left_out(pretend: Pretend, capsys: pytest.CaptureFixture[str]) -> None:
    pretend(recomputes=False)
    line = told(recipe(train={"bf16": True, "batch_parts": 2}), 26, capsys)
    assert line.endswith("so memory may run out; set, one on top of the other: --train.batch_parts 4 (22 GiB)")


def test_what_is_left_when_no_setting_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    del capsys
    savings = [Saving("train.bf16", True, 45 * GIB)]
    assert in_words(61 * GIB, 40 * GIB, savings).endswith(
        "--train.bf16 true (45 GiB); then use fewer or shorter clips (batch.identities, clip.length) or a smaller "
        "model.backbone"
    )
    assert "set, one" not in in_words(61 * GIB, 40 * GIB, [])


def test_what_cannot_fit_is_refused(pretend: Pretend) -> None:
    pretend()
    with pytest.raises(InputError, match=r"need 12 GiB before any batch \(weights 12, .* and the GPU has 11; use"):
        check_memory(recipe(), 75, 150, workers=2, gpu_bytes=11 * GIB)


def test_nothing_is_said_where_nothing_is_known(pretend: Pretend, capsys: pytest.CaptureFixture[str]) -> None:
    pretend(known=False)
    assert told(recipe(), 1, capsys) == ""


def test_parts_are_found_for_a_batch_of_two(pretend: Pretend) -> None:
    pretend()
    small = recipe(batch={"identities": 2, "clips": 1}, train={"bf16": True}, model={
        "backbone": "csci_video/eva_slim", "weights": "random", "checkpoint_blocks": True})  # fmt: skip

    def estimator(recipe: Recipe) -> MemoryEstimate:
        return estimate(8, 4 / recipe.train.batch_parts)

    assert [each.value for each in find_savings(small, 12 * GIB, 11 * GIB, estimator)] == [2]


def test_the_smallest_gpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Machine("gpu", 2, None, False, "av", gpu_bytes=size * GIB) for size in (80, 40)]
    monkeypatch.setattr(machines, "_look_everywhere", lambda *_, **__: found)
    workers: Any = None
    assert precision_and_memory(recipe(train={"bf16": True}), workers)[1] == 40 * GIB
    found[:] = [Machine("cpu", 2, None, False, "av")]
    assert precision_and_memory(recipe(train={"bf16": True}), workers)[1] is None


def test_the_table_of_recipes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def made_up(recipe: Recipe, persons: int, clothes: int, *, workers: int) -> MemoryEstimate | None:
        assert (persons, clothes, workers, recipe.train.bf16) == (75, 150, 1, True)
        return estimate(20, 30) if recipe.model.checkpoint_blocks else None

    monkeypatch.setattr(memory, "estimate_memory", made_up)
    memory.main(["synthetic_csci", "--workers", "1", "--set", "model.checkpoint_blocks", "true"])
    memory.main(["synthetic_csci", "--workers", "1"])
    heading, _, row, _, _, unknown = capsys.readouterr().out.splitlines()
    assert heading.count("|") == row.count("|")
    assert row == "| synthetic_csci | 20 | 0.0 | 0.0 | 0.0 | 30 | 50 | **no** | yes |"
    assert unknown == "| synthetic_csci | cannot be estimated |"
