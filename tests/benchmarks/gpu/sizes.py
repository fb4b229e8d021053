"""The amount of work in each part of `bench_gpu`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Everything that is larger on a GPU than in a test of the command on a CPU."""

    name: str
    networks: int
    """Number of released networks, from the first on."""
    updates: int
    """Number of the four released updates."""
    backbone: str
    frame: tuple[int, int]
    """Height and width."""
    identities: int
    """Identities in a batch of the training step, with four clips each."""
    steps: int
    """Measured steps of each variant of training."""
    pictures: tuple[int, int]
    """Made-up tracklets, and frames of each."""
    copies: int
    """Stored tracklets that show the same made-up frames."""
    embedded: int
    """Stored tracklets to embed."""
    search: tuple[int, int, int]
    """Queries, gallery, dimensions."""
    ranks: tuple[int, int, int]
    """Queries, gallery, dimensions of the comparison with the CPU."""
    csci: str
    """CSCI's video network."""
    csci_frame: tuple[int, int]
    """Height and width of its pictures."""
    csci_clips: int
    """Clips of four frames in a batch, and pictures: the released number on a GPU."""
    csci_most_clips: int
    """Of the batches that are tried."""
    product: int
    """Rows and columns of the matrices whose product shows the card's speed."""


FULL = Sizes(
    name="full",
    networks=9,
    updates=4,
    backbone="c2d_resnet50",
    frame=(256, 128),
    identities=4,
    steps=20,
    pictures=(16, 48),
    copies=96,
    embedded=1536,
    search=(10_000, 1_000_000, 512),
    ranks=(4000, 40_000, 512),
    csci="csci_video/eva02_large_patch14_clip_224",
    csci_frame=(224, 224),
    csci_clips=8,
    csci_most_clips=1024,
    product=8192,
)
TINY = Sizes(
    name="tiny",
    networks=1,
    updates=1,
    backbone="c2d_resnet18_slim",
    frame=(32, 16),
    identities=2,
    steps=1,
    pictures=(8, 16),
    copies=2,
    embedded=4,
    search=(20, 3000, 16),
    ranks=(30, 400, 16),
    csci="csci_video/eva_slim",
    csci_frame=(32, 16),
    csci_clips=2,
    csci_most_clips=2,
    product=128,
)

BUDGETS = {"released": 60, "step": 180, "loading": 75, "embedding": 60, "search": 55, "ranks": 40, "large": 100}
"""The parts in their order, and the seconds after which each is stopped: under ten minutes in all. (At tiny sizes,
which are for machines of any speed, after ten times as many.)"""
