"""Everything that a GPU has to show, each with its aim, in under ten minutes on one H100.

    python -m tests.benchmarks.bench_gpu [--only step search] [--json FILE] [--tiny] [--compile] [--one-process]

The parts, each in a process of its own with a time limit, so that one that breaks takes no other with it:
    released   features, losses and four updates of CAL in float32 against the released numbers; what bf16 changes
    step       the training step of `ccvid_cal`, with and without torch.compile and CUDA graphs, against the released
               formulation; its share of the card's peak, and what limits it
    loading    how long the step waits for the trainer's own loader, by CPU cores
    embedding  clips/s against the bare forward, at the batch size that is found
    search     the exact top-20 of 10,000 x 1,000,000 x 512 against one float32 product of that size
    ranks      ranks, metrics and searches, which must be the CPU's to the last digit
    large      CSCI on EVA-02-L against the released formulation; its estimated memory; its largest batch

Without a GPU it runs at tiny sizes by itself, with no aim of speed judged, and compiles only if asked (`--compile`).
The exit code is 1 where something could not be measured, and 0 where an aim is missed.

It needs neither Ray, decord nor PyAV. Beside torch, torchvision and numpy it imports pydantic, simplejpeg,
pytorch-metric-learning, pyarrow, fsspec, safetensors, pyyaml, pillow, scikit-learn, threadpoolctl, tensorboard, timm.
To a machine without network, carry the wheels of those that it lacks; where all but the first three are there, as in
most images made for machine learning, these are eight (8 MB):

    to="--only-binary :all: --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64"
    pip download $to -d wheels pydantic
    pip download $to --no-deps -d wheels simplejpeg pytorch-metric-learning timm

and there, in the repository's root (with `--target DIR` and PYTHONPATH=DIR where its Python is to stay as it is):

    pip install --no-index --no-deps wheels/*.whl
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.gpu.device import machine_facts
from tests.benchmarks.gpu.results import Row, print_table, read_rows, write_json
from tests.benchmarks.gpu.sizes import BUDGETS


def part_command(part: str, work: Path, rows: Path, flags: list[str]) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.gpu.run_part", part, str(work), str(rows), *flags]


def run_in_process(part: str, work: Path, flags: list[str], seconds: float) -> list[Row]:
    """Run a part in its own process, stopped after a time limit; returns the rows that it left."""
    rows = work / f"{part}.jsonl"
    # In its own session, because the compiler starts processes too.
    child = subprocess.Popen(part_command(part, work, rows, flags), start_new_session=True)
    problem = None
    try:
        code = child.wait(timeout=seconds)
        if code < 0 or (code and not any(row.verdict == "FAILED" for row in read_rows(rows))):
            problem = f"its process ended with code {code}"
    except subprocess.TimeoutExpired:
        problem = f"stopped after {seconds:.0f} s"
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    found = read_rows(rows)
    if problem:
        found.append(Row(part=part, what="the rest of this part", value=None, shown=problem, verdict="FAILED"))
        print(f"   FAILED: {problem}", flush=True)
    return found


def run_here(part: str, work: Path, *, tiny: bool, compile: bool) -> list[Row]:
    """Run a part in this process, without a time limit."""
    from tests.benchmarks.gpu.run_part import run_part

    rows = work / f"{part}.jsonl"
    run_part(part, work, rows, tiny=tiny, compile=compile)
    return read_rows(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BUDGETS, default=list(BUDGETS), metavar="PART", help="run these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on a GPU too")
    parser.add_argument("--compile", action="store_true", help="torch.compile on a CPU too")
    parser.add_argument("--one-process", action="store_true", help="all parts in this process, without time limits")
    return parser.parse_args()


def main() -> None:
    options, started = arguments(), time.perf_counter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no part keeps running alone
    facts = machine_facts()
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    tiny = options.tiny or facts["device"] == "no GPU"
    if tiny:
        why = "" if options.tiny else "no GPU: "
        print(f"{why}tiny sizes, the CPU's results against its own where there is no other; no speed is judged")
    flags = ["--tiny"] * tiny + ["--compile"] * options.compile
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for part in BUDGETS:
            if part not in options.only:
                continue
            print(f"\n{part}", flush=True)
            if options.one_process:
                rows += run_here(part, work, tiny=tiny, compile=options.compile)
            else:
                rows += run_in_process(part, work, flags, BUDGETS[part] * (10 if tiny else 1))
    print_table(rows)
    print(f"\n{time.perf_counter() - started:.0f} s in all")
    if options.json is not None:
        write_json(options.json, facts, rows)
    sys.exit(any(row.verdict == "FAILED" for row in rows))


if __name__ == "__main__":
    main()
