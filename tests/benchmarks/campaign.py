"""Many kills at random moments of small runs on a cluster of this machine: how many were lost, what each cost.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.campaign [--kills 25] [--kinds worker,node,driver,head,storage]
        [--seed 1]

Two workers train on a head and a node of one CPU each, with a checkpoint every epoch. Each run is hit several times:
worker     kill -9 of one of the two workers
node       kill -9 of a node with its worker; another node is added
driver     kill -9 of the driver; the same command is given again
head       kill -9 of the head with GCS, driver and worker, and of the node; a new head, and the same command
storage    an S3 server refuses every write for two to eight seconds, in runs of their own that are stored there;
           the seconds count up to the next checkpoint
Every run must end with the weights, to the bit, and the steps of a run that was left alone; exit code 1 where one does
not. A dead node is given up after three seconds here, see QUICK_HEARTBEATS; Ray's own setting is 15 and more.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from data_tools.storage import StorageFolder
from tests.conftest import make_tiny_shards
from tests.jobs.breaking import KILLED, Broken, Outcome, Run, expect_success, steps_done
from tests.jobs.conftest import write_tiny_recipe
from tests.jobs.head import QUICK_HEARTBEATS, Head
from tests.s3_server import S3Server

EPOCHS, STEPS_PER_EPOCH = 120, 4
STORAGE = "storage"
KINDS = (*KILLED, STORAGE)


@dataclass(frozen=True, slots=True)
class Plan:
    """A fault: which kind, after which step, and how long after it."""

    kind: str
    step: int
    pause: float


def plan_runs(kinds: Sequence[str], kills: int, per_run: int, chance: random.Random) -> Iterator[list[Plan]]:
    """The same for the same seed: all kinds about equally often, in random order, spread over each run."""
    drawn = (list(kinds) * (kills // len(kinds) + 1))[:kills]
    chance.shuffle(drawn)
    refused = [kind for kind in drawn if kind == STORAGE]
    for group in ([kind for kind in drawn if kind != STORAGE], refused):
        for start in range(0, len(group), per_run):
            chosen = group[start : start + per_run]
            steps = sorted(chance.sample(range(2, EPOCHS * STEPS_PER_EPOCH * 9 // 10), len(chosen)))
            yield [Plan(kind, step, chance.uniform(0, 0.3)) for kind, step in zip(chosen, steps, strict=True)]


class Campaign:
    """All runs, one after another, on one cluster."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self._root, self._chance = root, chance
        self._recipe = write_tiny_recipe(root, make_tiny_shards(root))
        (root / "head").mkdir()
        self._s3 = S3Server()
        os.environ.update(self._s3.environment)  # this process reads what runs store there
        self._bucket = self._s3.bucket()
        self._head = Head(root / "head", 1, settings=QUICK_HEARTBEATS | self._s3.environment)
        self.rows: list[tuple[int, Broken]] = []
        self.runs: list[str] = []

    def leave_alone(self) -> None:
        """The run that all others must equal."""
        self._head.add_node()
        began = time.monotonic()
        expect_success(self._head.run("train.py", *self._flags("alone", str(self._root / "runs"))))
        self._expected = Outcome.of(StorageFolder(str(self._root / "runs" / "alone")))
        print(f"left alone: {time.monotonic() - began:.0f} s", flush=True)

    def hit(self, plans: Sequence[Plan]) -> None:
        """One run with its faults."""
        number = len(self.runs) + 1
        storage = self._bucket if plans[0].kind == STORAGE else str(self._root / "runs")
        place, log = StorageFolder(f"{storage}/run{number}"), self._root / f"run{number}.log"
        run = Run(self._head, place, self._flags(place.name, storage), nodes=1, log=log)
        try:
            for plan in plans:
                run.reach(plan.step)
                time.sleep(plan.pause)
                broken = self._refuse(run) if plan.kind == STORAGE else run.hit(plan.kind, self._chance)
                self.rows.append((number, broken))
                print(f"run {number}: {_moment(broken)}, training after {broken.seconds:.1f} s", flush=True)
            self.runs.append("equal" if run.finish() == self._expected else "DIFFERENT")
        except AssertionError as error:
            self.runs.append(f"LOST: {error}")
        finally:
            run.end()
        print(f"run {number}: {self.runs[-1]}", flush=True)

    def stop(self) -> None:
        self._head.stop()
        self._s3.stop()

    def _refuse(self, run: Run) -> Broken:
        """Refuse writes for a while; returns once a checkpoint has been stored after it."""
        step, began = steps_done(run.place), time.monotonic()
        self._s3.refuse_writes()
        time.sleep(self._chance.uniform(2, 8))
        self._s3.accept_writes()
        run.reach(step + 1)
        return Broken(STORAGE, step, 0, time.monotonic() - began)

    def _flags(self, name: str, storage: str) -> list[str]:
        return [
            *("--recipe", str(self._recipe), "--run.name", name, "--run.storage", storage),
            *("--compute.workers", "2", "--batch.identities", "1", "--compute.max_failures", "100"),
            *("--train.epochs", str(EPOCHS), "--train.validate_every", str(EPOCHS // 3)),
            *("--train.log_every_seconds", "0.01", "--train.checkpoint_share", "1"),
        ]


def print_tables(campaign: Campaign) -> None:
    """Print every fault, then the cost of each kind."""
    print("\n| # | run | killed | at epoch.step | steps done again | seconds to the next step | the run |")
    print("|---|---|---|---|---|---|---|")
    for number, (run, broken) in enumerate(campaign.rows, 1):
        place = f"{broken.step // STEPS_PER_EPOCH + 1}.{broken.step % STEPS_PER_EPOCH + 1}"
        outcome = campaign.runs[run - 1].partition(":")[0]
        print(f"| {number} | {run} | {broken.kind} | {place} | {broken.lost} | {broken.seconds:.1f} | {outcome} |")
    print("\n| killed | times | seconds lost, mean | most | steps done again, mean |\n|---|---|---|---|---|")
    for kind in KINDS:
        found = [broken for _, broken in campaign.rows if broken.kind == kind]
        if found:
            seconds, lost = [broken.seconds for broken in found], [broken.lost for broken in found]
            print(
                f"| {kind} | {len(found)} | {statistics.mean(seconds):.1f} | {max(seconds):.1f} "
                f"| {statistics.mean(lost):.1f} |"
            )


def _moment(broken: Broken) -> str:
    return f"{broken.kind} killed after step {broken.step}, {broken.lost} steps done again"


def _kinds(text: str) -> list[str]:
    found = [kind for kind in KINDS if kind in text.split(",")]
    if len(found) != len(text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: expected some of {','.join(KINDS)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--kinds", type=_kinds, default=list(KINDS))
    parser.add_argument("--per-run", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    print(f"seed {arguments.seed}; {platform.machine()}, {os.cpu_count()} CPUs, Ray {ray.__version__}", flush=True)
    with tempfile.TemporaryDirectory(prefix="campaign-") as temporary:
        campaign = Campaign(Path(temporary), chance)
        try:
            campaign.leave_alone()
            for plans in plan_runs(arguments.kinds, arguments.kills, arguments.per_run, chance):
                campaign.hit(plans)
        finally:
            campaign.stop()
        print_tables(campaign)
    bad = [outcome for outcome in campaign.runs if outcome != "equal"]
    print(f"\n{len(campaign.rows)} kills in {len(campaign.runs)} runs, {len(bad)} lost; load {os.getloadavg()[0]:.1f}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
