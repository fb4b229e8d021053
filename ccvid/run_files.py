"""The names of every file in a run folder and in a checkpoint.

    RUN.STORAGE/NAME/                 a run folder: a training run, or what a checkpoint scores
    ├── config.yaml                   the resolved recipe (training run)
    ├── steps.jsonl, tensorboard/     the losses of every step (training run)
    ├── checkpoint_TIME/              the last train.checkpoints_kept checkpoints (training run)
    │   ├── model.json                which network it is: all that is needed to build it
    │   ├── model.safetensors         backbone and identity classifier, as they are scored; averaged where the
    │   │                             recipe says so
    │   ├── unaveraged.safetensors    the same as the optimizer left them, where the recipe averages
    │   ├── clothes.safetensors       clothes classifier or memory, where the recipe has CAL
    │   ├── csci_heads.safetensors    colour head and the pictures' person classifier, where the method is CSCI
    │   ├── groups.safetensors        classes of the training tracklets and their centroids, where the method finds them
    │   ├── trainer.pt                the optimizers, and how many steps the average has seen
    │   ├── progress.json             epochs and steps done, best validation, epochs whose score is still to come
    │   └── unscored/epoch-N/         the weights of each of these, as above without trainer.pt
    ├── best/                         the best epoch on the held-out identities, as a checkpoint without trainer.pt
    ├── metrics.json                  figures with intervals; written last: a run that has it is scored
    ├── metrics.txt                   the tables that people read
    ├── queries.parquet               one row per query and protocol
    ├── thresholds.json               error rates, the recommended threshold, open-set figures, reliability
    ├── calibration.json              from scores to probabilities; none where it could not be fitted
    ├── fusion.json                   how the evidence of --fuse is weighed; none without
    ├── embeddings.parquet            one row per scored tracklet; none where distances were given
    ├── rankings_PROTOCOL.svg, .png   a picture of a few rankings
    └── report/index.html             all of it as pages, with filmstrips of every query

What `evaluate.py --checkpoints --datasets` writes, and `evaluate.py --standing` of several results:

    RUN.STORAGE/NAME/
    ├── pairs/PAIR/                   results as above of each model and control on each data set
    │   ├── pair.json                 what was asked: the pair is scored again where that changes
    │   └── cost.json                 milliseconds a clip, parameters and FLOPs
    ├── referee.txt, referee.json     the table; referee.json is written last
    ├── standing.txt, standing.json   what costs most; standing.json is written last
    └── report/index.html             the same as a page

What `score.py` writes of a gallery without labels:

    RUN.STORAGE/NAME/
    ├── matches.parquet, matches.csv  one row per query and rank; matches.csv is written last
    ├── matches.jsonl                 one line per match that --watch reports, added when it is found
    ├── watched.jsonl                 what --watch has taken in and what it refused
    ├── clusters.parquet              the probable person of each tracklet, with --groups
    ├── groups/index.html             the probable people as pages, with --groups
    ├── report/index.html             the matches as pages
    ├── forgotten-TIME.json           a certificate of what --remove-person or --forget-before removed where
    └── forgetting.json               what such a command has begun; gone when it is done

What `identify.py` writes of a gallery:

    RUN.STORAGE/NAME/
    ├── identities.parquet            person, outfit and confidence of each tracklet; written last
    ├── questions.csv                 pairs that are in doubt, the most valuable first
    ├── persons/index.html            questions, persons and cameras' days as pages
    ├── tracks/VIDEO.txt, …           the tracks as they came in, with persons, with --tracks
    └── annotated/VIDEO.mp4           the video with boxes and persons drawn, with --annotate

Ray keeps two files of its own beside them: ``checkpoint_manager_snapshot.json`` and ``.validate_storage_marker``.
"""

from __future__ import annotations

CONFIG_FILE = "config.yaml"
STEPS_FILE = "steps.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

CHECKPOINT_PREFIX = "checkpoint"
"""Checkpoint folders begin with it; Ray adds the time."""
BEST_FOLDER = "best"
DESCRIPTION_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
UNAVERAGED_FILE = "unaveraged.safetensors"
CLOTHES_FILE = "clothes.safetensors"
CSCI_FILE = "csci_heads.safetensors"
GROUPS_FILE = "groups.safetensors"
TRAINER_FILE = "trainer.pt"
PROGRESS_FILE = "progress.json"
UNSCORED_FOLDER = "unscored"

METRICS_FILE = "metrics.json"
TABLES_FILE = "metrics.txt"
QUERIES_FILE = "queries.parquet"
THRESHOLDS_FILE = "thresholds.json"
CALIBRATION_FILE = "calibration.json"
FUSION_FILE = "fusion.json"
EMBEDDINGS_FILE = "embeddings.parquet"
PAIRS_FOLDER, PAIR_FILE, COST_FILE = "pairs", "pair.json", "cost.json"
REFEREE_FILE, STANDING_FILE = "referee.json", "standing.json"
REPORT_FOLDER = "report"

MATCHES_TABLE, MATCHES_FILE = "matches.parquet", "matches.csv"
LIVE_MATCHES_FILE, WATCH_FILE = "matches.jsonl", "watched.jsonl"
CLUSTERS_FILE = "clusters.parquet"
GROUPS_FOLDER = "groups"
SCORED = (METRICS_FILE, TABLES_FILE, QUERIES_FILE, THRESHOLDS_FILE, CALIBRATION_FILE, FUSION_FILE, REPORT_FOLDER)
"""What is written of a labelled gallery."""
RANKED = (MATCHES_FILE, MATCHES_TABLE, CLUSTERS_FILE, GROUPS_FOLDER, REPORT_FOLDER)
"""What is written of one without labels."""

IDENTITIES_FILE, QUESTIONS_FILE = "identities.parquet", "questions.csv"
PERSONS_FOLDER, TRACKS_FOLDER, ANNOTATED_FOLDER = "persons", "tracks", "annotated"


def rankings_file(protocol: str, kind: str) -> str:
    """The picture of a few rankings, ``kind`` svg or png."""
    return f"rankings_{protocol}.{kind}"
