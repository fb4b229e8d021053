"""People with several kinds of evidence, made from their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.ranking.labels import RetrievalLabels

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Made:
    """Tracklets of some people in two outfits on two cameras, each both query and entry."""

    labels: RetrievalLabels
    body_ND: Vectors
    """Knows the outfit, and a little of the person."""
    face_ND: Vectors
    """Knows the person, the better the higher ``quality_N``; says nothing where ``hidden_N``."""
    quality_N: npt.NDArray[np.float64]
    hidden_N: npt.NDArray[np.bool_]


def make(people: int = 12, seed: int = 0, *, body_noise: float = 0.6, face_noise: float = 0.7) -> Made:
    random = np.random.default_rng(seed)
    person_N, outfit_N, camera_N = (grid.ravel() for grid in np.mgrid[:people, :2, :2])
    count = len(person_N)
    quality_N, hidden_N = random.uniform(size=count), random.uniform(size=count) < 0.25
    body_ND = (
        random.normal(size=(people, 32))[person_N] * 0.5 + random.normal(size=(2 * people, 32))[2 * person_N + outfit_N]
    )
    face_ND = random.normal(size=(people, 16))[person_N]
    noise_N = face_noise * (0.3 + 2 * (1 - quality_N))
    return Made(
        RetrievalLabels(
            tuple(f"t{number}" for number in range(count)),
            tuple(map(str, person_N)),
            tuple(map(str, camera_N)),
            tuple(map(str, outfit_N)),
        ),
        (body_ND + body_noise * random.normal(size=body_ND.shape)).astype(np.float32),
        (face_ND + noise_N[:, None] * random.normal(size=face_ND.shape)).astype(np.float32),
        quality_N,
        hidden_N,
    )
