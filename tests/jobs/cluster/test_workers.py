"""How many workers fit beside validators and decoders, counted without a cluster."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from ccvid.config import ComputeOptions, Recipe
from data_tools.errors import InputError
from ray_jobs.cluster.workers import Workers

GPU_NODE = {"CPU": 16.0, "GPU": 4.0}


def workers_on(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], validators: int, **compute: Any
) -> Workers:
    alive = [{"Alive": True, "NodeID": str(number), "Resources": node} for number, node in enumerate(nodes)]
    monkeypatch.setattr(ray, "nodes", lambda: alive)
    return Workers(ComputeOptions(validators=validators, **compute), validators=validators)


@pytest.mark.parametrize(
    ("nodes", "validators", "compute", "expected"),
    [
        ([{"CPU": 2.0}], 0, {}, (1, 2)),
        ([{"CPU": 2.0}], 1, {}, (1, 1)),
        ([{"CPU": 8.0}, {"CPU": 8.0}], 2, {}, (2, 4)),
        ([GPU_NODE], 0, {}, (4, 4)),
        ([GPU_NODE], 1, {}, (3, 4)),
        ([GPU_NODE, GPU_NODE], 2, {"workers": 4}, (4, 5)),
        ([{"CPU": 2.0}], 1, {"workers": (1, 4), "cpus_per_worker": 1}, (1, 1)),
    ],
)
def test_validators_take_the_room_of_workers(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[dict[str, float]],
    validators: int,
    compute: dict[str, Any],
    expected: tuple[int, int],
) -> None:
    found = workers_on(monkeypatch, nodes, validators, **compute)
    assert (found.count, found.cpus) == expected


@pytest.mark.parametrize(
    ("nodes", "compute", "message"),
    [
        ([{"CPU": 1.0}], {}, "1 workers and 1 validators with 1 CPUs each do not fit the cluster's 1 CPUs and 0 GPUs"),
        ([{"CPU": 16.0, "GPU": 1.0}], {}, "1 workers and 1 validators with 16 CPUs and a GPU each do not fit"),
        (
            [GPU_NODE],
            {"workers": 4},
            r"4 workers and 1 validators .* change --compute.workers, --compute.validators or",
        ),
        ([{"CPU": 2.0}], {"use_gpu": True}, "1 workers and 1 validators with 1 CPUs and a GPU each do not fit"),
        ([{"CPU": 4.0}], {"cpus_per_worker": 2, "decoders": 1}, "besides the 4 of workers and validators, and the"),
    ],
)
def test_validators_that_do_not_fit_are_one_error(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], compute: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        workers_on(monkeypatch, nodes, 1, **compute)


def test_validators_need_held_out_identities() -> None:
    with pytest.raises(ValueError, match=r"compute.validators needs train.held_out_share above 0"):
        Recipe.model_validate({"compute": {"validators": 1}, "train": {"held_out_share": 0}})
