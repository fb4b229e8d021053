"""`ccvid_cal` at the size of CCVID without its pictures: classifiers, training items and so steps per epoch.

CCVID trains on 948 tracklets of 75 persons; all its tracklets have 27 to 410 frames, 122 in the mean. What is not
published is made up here: lengths follow a beta distribution of that range and mean, and everybody wears two outfits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from ccvid.config import Recipe
from ccvid.training.split import TrainingSplit
from data_tools.clips import dense_pieces
from data_tools.identity_sampler import PkOptions, PkSampler
from data_tools.loader import TrainingItems
from data_tools.transforms import normalise

RECIPE = Path(__file__).parents[2] / "ray_jobs" / "recipes" / "ccvid_cal.yaml"
PERSONS, TRACKLETS, OUTFITS = 75, 948, 2
SHORTEST, LONGEST, MEAN = 27, 410, 122
ASSUMED = (
    f"{TRACKLETS} tracklets of {PERSONS} persons, lengths made up ({SHORTEST}-{LONGEST} frames, mean {MEAN}), "
    f"{OUTFITS} outfits each"
)


def ccvid_recipe(**batch: int) -> Recipe:
    """The recipe with random initial weights, both updates from the first step, and no held-out identities."""
    values: dict[str, Any] = yaml.safe_load(RECIPE.read_text())
    values["data"]["root"] = "/data"
    values["model"]["weights"] = "random"
    values["method"]["start_epoch"] = 0
    values["train"] |= {"held_out_share": 0.0, "test_weights": "last"}
    values["batch"] |= batch
    return Recipe.model_validate(values)


def ccvid_split(piece: int = 64) -> TrainingSplit:
    """Training items and classes in CCVID's numbers and sizes."""
    rng = np.random.default_rng(0)
    mean = (MEAN - SHORTEST) / (LONGEST - SHORTEST)
    lengths = SHORTEST + np.round((LONGEST - SHORTEST) * rng.beta(1.5, 1.5 / mean - 1.5, TRACKLETS)).astype(int)
    pieces = [dense_pieces(int(length), piece) for length in lengths]
    row_I = np.repeat(np.arange(TRACKLETS), [len(spans) for spans in pieces])
    start_I, end_I = np.array([span for spans in pieces for span in spans], np.int64).T
    person_I = row_I % PERSONS
    clothes_I = OUTFITS * person_I + row_I // PERSONS % OUTFITS
    items = TrainingItems(row_I, start_I, end_I, person_I, clothes_I, row_I * 0)
    persons = tuple(f"{person:03d}" for person in range(PERSONS))
    clothes = tuple((person, str(outfit)) for person in persons for outfit in range(OUTFITS))
    return TrainingSplit(items, persons, clothes, np.arange(PERSONS * OUTFITS) // OUTFITS, ())


def steps_per_epoch(split: TrainingSplit, batch: PkOptions, workers: int) -> int:
    """Steps per epoch of every worker."""
    return PkSampler(split.items.person_I, batch, world_size=workers, seed=1).steps_per_epoch


def ready_batch(recipe: Recipe, split: TrainingSplit, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised frames_BTCHW of noise with person_B and clothes_B, on ``device``."""
    item_B = PkSampler(split.items.person_I, recipe.batch, world_size=1, seed=1).schedule(0, 0).item_SB[0]
    shape = (len(item_B), recipe.clip.length, recipe.model.height, recipe.model.width, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=device).permute(0, 1, 4, 2, 3)
    person_B, clothes_B = (
        torch.from_numpy(labels[item_B]).to(device) for labels in (split.items.person_I, split.items.clothes_I)
    )
    return normalise(frames), person_B, clothes_B
