"""Names of a run folder's files that several packages read."""

from __future__ import annotations

CONFIG_FILE = "config.yaml"
"""The whole recipe, as decided."""
METRICS_FILE = "metrics.json"
"""Written last: a run that has it is scored."""
EMBEDDINGS_FILE = "embeddings.parquet"
"""One row a scored tracklet."""
THRESHOLDS_FILE = "thresholds.json"
"""The recommended thresholds."""
CALIBRATION_FILE = "calibration.json"
"""From scores to probabilities; beside the thresholds."""
REPORT_FOLDER = "report"
"""The pages."""
