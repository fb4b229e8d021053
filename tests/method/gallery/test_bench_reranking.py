"""The benchmark of groups and re-ranking on a tiny store, and what it measures of processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ccvid.retrieval.gallery import own_neighbours
from tests.benchmarks.bench_reranking import Asked, Measured, extrapolated, grouped, re_ranked, write_store
from tests.benchmarks.process_tree import TreeMeter

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is measured as on Linux")


def test_each_piece_tells_what_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_neighbours, "INDEXED_ROWS", 1)  # it is set, and is to be as before afterwards
    asked = Asked(str(tmp_path), tracklets=200, queries=20, dimensions=128, exact=False, here=True)
    write_store(asked)
    found = {row.phase: row.result for row in (*grouped(asked), *re_ranked(asked))}
    assert list(found) == ["groups", "re-ranking: weights", "plain: scoring", "re-ranking: scoring"]
    assert found["groups"].startswith("B-cubed precision ")
    plain, ranked = (
        float(found[f"{name}: scoring"].removeprefix("mAP ").rstrip("%")) for name in ("plain", "re-ranking")
    )
    assert ranked > plain > 20


def test_a_million_by_linear_growth() -> None:
    before, last = (Measured("groups", size, 0.01 * size, 0.02 * size, 500 * size, "") for size in (50_000, 100_000))
    million = extrapolated(before, last)
    assert (million.tracklets, million.seconds, million.cpu_seconds) == pytest.approx((10**6, 10_000, 20_000))
    assert million.peak_bytes == pytest.approx(500 * 10**6)
    assert million.result == "seconds grow by the power 1.00, memory 1.00"


def test_memory_and_cpu_of_a_child_count() -> None:
    with TreeMeter() as alone:
        pass
    work = (
        "import time; held = bytearray(2**28); end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    )
    with TreeMeter() as both:
        subprocess.run([sys.executable, "-c", work], check=True)
    assert both.peak_bytes > alone.peak_bytes + 2**27
    assert both.cpu_seconds >= 0.4
