"""Random moments of tests that kill things: drawn from one seed, which pytest names in its header and takes again.

CCVID_KILL_SEED=1234 python -m pytest tests/jobs/training/test_failures.py
"""

from __future__ import annotations

import os
import random
from collections import Counter

SEED_VARIABLE = "CCVID_KILL_SEED"

_drawn: Counter[str] = Counter()


def kill_seed() -> str:
    """The seed of this test run; drawn by its first process and inherited by all others."""
    return os.environ.setdefault(SEED_VARIABLE, str(random.SystemRandom().randrange(10**6)))


def chance() -> random.Random:
    """A separate generator for each call of a test: the same seed gives the same test the same moments."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
    _drawn[test] += 1
    return random.Random(f"{kill_seed()}/{test}/{_drawn[test]}")
