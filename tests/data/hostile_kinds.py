"""Every kind of hostile input."""

from __future__ import annotations

from tests.data.hostile_results import RESULTS
from tests.data.hostile_sources import SOURCES

KINDS = {**SOURCES, **RESULTS}
