"""The benchmark of galleries prints what it promises; its figures are not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.bench_gallery import PHASES


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as on Linux")
def test_every_phase_is_a_line_of_json() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.bench_gallery"]
    sizes = ["--tracklets", "900", "--dimensions", "8", "--queries", "5"]
    done = subprocess.run([*command, *sizes], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["phase"] for line in lines] == list(PHASES)
    for line in lines:
        assert line["seconds"] > 0
        assert line["bare_seconds"] > 0
        assert line["peak_bytes"] >= 0
        assert line["embedding_bytes"] == 900 * 8 * 4
