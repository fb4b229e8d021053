"""One part of `bench_gpu` in this process; the command starts it so for each part.

python -m tests.benchmarks.gpu.run_part PART WORK ROWS [--tiny] [--compile]
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from tests.benchmarks.gpu import embedding, large, loading, ranks, released, search, step
from tests.benchmarks.gpu.results import Results, reason_of
from tests.benchmarks.gpu.sizes import BUDGETS, FULL, TINY
from tests.benchmarks.gpu.task import Task

PARTS: dict[str, Callable[[Task], None]] = {
    "released": released.run,
    "step": step.run,
    "loading": loading.run,
    "embedding": embedding.run,
    "search": search.run,
    "ranks": ranks.run,
    "large": large.run,
}


def run_part(part: str, work: Path, rows: Path, *, tiny: bool, compile: bool) -> bool:
    """Run the part; returns whether all of it could be measured. Rows, failures included, go to a file as they come."""
    on_gpu = torch.cuda.is_available()
    results = Results(part, rows, judge_speed=on_gpu and not tiny)
    device = torch.device("cuda" if on_gpu else "cpu")
    started = time.perf_counter()
    torch.manual_seed(0)
    try:
        PARTS[part](Task(device, TINY if tiny else FULL, work, results, compile or (on_gpu and not tiny)))
    except Exception as error:
        traceback.print_exc()
        results.failure("the rest of this part", reason_of(error))
    seconds = time.perf_counter() - started
    results.fact(f"seconds, of {BUDGETS[part]} that it may take", seconds, "{:.0f}")
    return not results.failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("work", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    sys.exit(not run_part(options.part, options.work, options.rows, tiny=options.tiny, compile=options.compile))


if __name__ == "__main__":
    main()
