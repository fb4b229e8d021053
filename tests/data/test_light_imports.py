"""Processes without a network do not import what networks need: on a slow machine that takes many seconds each."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["ccvid.config", "ray_jobs.sharding.shards", "ray_jobs.training.guard", "data_tools.shard_writer"]
)
def test_without_torch(module: str) -> None:
    heavy = "torch", "torchvision", "sklearn"
    program = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
