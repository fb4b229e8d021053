"""Embeddings scaled to length 1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.ranking.distances import Floats

Embeddings = npt.NDArray[np.float32]


def unit(embedding_ND: Floats) -> Embeddings:
    """Rows of length 1."""
    wide = embedding_ND.astype(np.float64)
    scaled: Embeddings = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return scaled
