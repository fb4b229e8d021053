"""A driver whose worker stands in a placement group on the GPU node and has its clips decoded elsewhere.

    python -m tests.jobs.decoding_driver CASE SHARDS

Prints one line of JSON for each thing found, and what the worker prints.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from data_tools.clips import ClipOptions
from data_tools.errors import InputError
from data_tools.identity_sampler import PkOptions, PkSampler, Schedule
from data_tools.loader import ClipBatch, ClipLoader, TrainingClips, TrainingItems
from data_tools.loading_options import AugmentOptions, LoaderOptions
from data_tools.shards import ShardFolder
from ray_jobs.training.decoders import RemoteDecoders
from tests.chance import chance

SIZE = (64, 32)
CLIP = ClipOptions(length=8, stride=1, piece=0)
"""Makes a part large enough for the object store."""
OPTIONS = LoaderOptions(threads=2, prefetch=2)


def is_running(pid: int) -> bool:
    """Whether a process of this machine is still running."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(") ")[2][0] != "Z"


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for a condition that must hold within that many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.05)


class BrokenFolder(ShardFolder):
    """Every frame of row 3 is truncated."""

    def __reduce__(self) -> tuple[type[ShardFolder], tuple[Path]]:
        return BrokenFolder, (self.folder,)

    def encoded_frames(self, row: int, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        frames = super().encoded_frames(row, positions)
        return [frame[:200] for frame in frames] if row == 3 else frames


class Worker:
    """Placed where a training worker would be."""

    def __init__(self, shards: Path) -> None:
        torch.set_num_threads(1)
        self._shards, self._store = shards, ShardFolder(shards)
        row = np.flatnonzero(self._store.rows.is_in("split", ["train"]))
        rows = self._store.rows.take(row)
        label = np.unique(rows.values("person"), return_inverse=True)[1]
        items = TrainingItems.cut(rows.frame_count_N, row, label, label, label, CLIP.piece)
        self._clips = TrainingClips(self._store, items, CLIP, AugmentOptions(flip=0.5), SIZE)

    def epoch(self, number: int) -> dict[str, Any]:
        """A PK epoch, from its start, from its middle and stopped early, against decoding in threads."""
        decoders = self._decoders(number)
        wait_until(lambda: decoders.up() == number, 60, f"{number} decoders")
        where = [(node, pid) for node, pid in self._places(decoders)]
        loader = ClipLoader(self._clips, OPTIONS, decoders=decoders)
        persons = self._clips.items.person_I
        schedule = PkSampler(persons, PkOptions(identities=3, clips=2), world_size=1, seed=0).schedule(1, 0)
        expected = list(ClipLoader(self._clips, OPTIONS).batches(schedule))
        whole = list(loader.batches(schedule))
        for _ in loader.batches(schedule):
            break
        late = list(loader.batches(schedule, first_step=2))
        loader.close()
        wait_until(lambda: not any(is_running(pid) for _, pid in where), 20, "end of the decoders")
        return {
            "steps": len(whole),
            "equal": same(whole, expected) and same(late, expected[2:]),
            "nodes": [node for node, _ in where],
            "own_clips": decoders.own_clips,
        }

    def killed(self) -> dict[str, Any]:
        """A long epoch in which one of two decoders is killed at a given moment."""
        decoders = self._decoders(2)
        wait_until(lambda: decoders.up() == 2, 60, "two decoders")
        schedule, moment = self._long_schedule(150), chance().randrange(5, 140)
        pid = chance().choice(self._places(decoders))[1]
        equal, loader = True, ClipLoader(self._clips, OPTIONS, decoders=decoders)
        for step, (batch, expected) in enumerate(self._beside_threads(loader, schedule)):
            equal = equal and same([batch], [expected])
            if step == moment:
                os.kill(pid, signal.SIGKILL)
        own = decoders.own_clips
        wait_until(lambda: decoders.up() == 2, 60, "decoder that was started again")
        loader.close()
        return {"moment": moment, "steps": step + 1, "equal": equal, "own_clips": own}

    def losing_nodes(self, steps: int) -> dict[str, Any]:
        """Print each step, and that the decoders are up; nodes are killed meanwhile, until the worker is alone."""
        decoders = self._decoders(3)
        wait_until(lambda: decoders.up() == 3, 60, "three decoders")
        print("three decoders are up", flush=True)
        equal, loader, up = True, ClipLoader(self._clips, OPTIONS, decoders=decoders), [3]
        for batch, expected in self._beside_threads(loader, self._long_schedule(steps)):
            equal = equal and same([batch], [expected])
            if decoders.up() != up[-1]:
                up.append(decoders.up())
            if decoders.own_clips > 200:
                break
            time.sleep(0.01)
        loader.close()
        return {"equal": equal, "up": up, "own_clips": decoders.own_clips}

    def mistakes(self) -> dict[str, Any]:
        """A frame that no decoder can read, and shards that none can open."""
        frame = self._mistake_of(partial(BrokenFolder, self._shards))
        return {"frame": frame, "shards": self._mistake_of(partial(ShardFolder, Path("/nowhere")))}

    def too_many(self) -> dict[str, Any]:
        """More decoders than CPUs: those that find a CPU decode."""
        decoders = self._decoders(5)
        first = next(loader := ClipLoader(self._clips, OPTIONS, decoders=decoders).batches(self._long_schedule(400)))
        own = decoders.own_clips
        wait_until(lambda: decoders.up() == 3, 60, "three decoders")
        expected = list(ClipLoader(self._clips, OPTIONS).batches(self._long_schedule(400)))
        equal = same([first, *loader], expected)
        decoders.close()
        return {"equal": equal, "own_clips_at_first": own, "own_clips": decoders.own_clips}

    def _decoders(self, number: int) -> RemoteDecoders:
        return RemoteDecoders(self._clips, partial(ShardFolder, self._shards), number=number, threads=OPTIONS.threads)

    def _mistake_of(self, open_store: Callable[[], ShardFolder]) -> str | None:
        decoders = RemoteDecoders(self._clips, open_store, number=1, threads=2)
        loader = ClipLoader(self._clips, OPTIONS, decoders=decoders)
        try:
            wait_until(lambda: decoders.up() == 1, 60, "decoder")
            list(loader.batches(self._long_schedule(30)))
        except InputError as error:
            return str(error)
        finally:
            loader.close()
        return None

    def _long_schedule(self, steps: int) -> Schedule:
        rng = np.random.default_rng(steps)
        shape = (steps, 12)
        return Schedule(rng.integers(len(self._clips.items), size=shape), rng.integers(2**63, size=shape))

    def _beside_threads(self, loader: ClipLoader, schedule: Schedule) -> Any:
        return zip(loader.batches(schedule), ClipLoader(self._clips, OPTIONS).batches(schedule), strict=True)

    def _places(self, decoders: RemoteDecoders) -> list[tuple[str, int]]:
        """Node and process id of each decoder."""
        asked = [decoder.actor.__ray_call__.remote(where_am_i) for decoder in decoders._decoders]
        return list(ray.get(asked))


def where_am_i(_: object) -> tuple[str, int]:
    return ray.get_runtime_context().get_node_id(), os.getpid()


def same(batches: Sequence[ClipBatch], others: Sequence[ClipBatch]) -> bool:
    """Whether frames and labels are bit-identical."""
    pairs = list(zip(batches, others, strict=True))
    return all(
        torch.equal(one.frames_BTCHW, other.frames_BTCHW)
        and one.frames_BTCHW.stride() == other.frames_BTCHW.stride()
        and torch.equal(one.person_B, other.person_B)
        and torch.equal(one.tracklet_B, other.tracklet_B)
        for one, other in pairs
    )


def main() -> None:
    case, shards = sys.argv[1:]
    ray.init(log_to_driver=True)
    group = ray.util.placement_group([{"CPU": 1, "GPU": 1}])
    ray.get(group.ready(), timeout=30)
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    worker: Any = ray.remote(Worker).options(num_cpus=1, num_gpus=1, scheduling_strategy=strategy).remote(Path(shards))
    gpu_nodes = [node["NodeID"] for node in ray.nodes() if node["Resources"].get("GPU")]  # type: ignore[no-untyped-call]
    cases: dict[str, Callable[[], list[Any]]] = {
        "epochs": lambda: [{"gpu_nodes": gpu_nodes}, *(ray.get(worker.epoch.remote(number)) for number in (2, 3))],
        "troubles": lambda: [
            ray.get(worker.killed.remote()),
            ray.get(worker.mistakes.remote()),
            ray.get(worker.too_many.remote()),
        ],
        "losing_nodes": lambda: [ray.get(worker.losing_nodes.remote(100_000))],
    }
    for found in cases[case]():
        print("FOUND", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
