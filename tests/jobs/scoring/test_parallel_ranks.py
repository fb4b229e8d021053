"""Ranks counted by a Ray cluster."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.jobs.breaking import expect_success
from tests.jobs.head import ROOT, Head

pytestmark = pytest.mark.slow


def test_tasks_count_as_one_process_does(head: Head) -> None:
    command = [str(head.python), "-m", "tests.jobs.ranking_driver"]
    done = subprocess.run(command, env=head.driver_environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    found = [json.loads(line[6:]) for line in expect_success(done).splitlines() if line.startswith("FOUND ")]
    assert found == [{"embeddings": [True] * 7}, {"matrix": [True] * 7}]
