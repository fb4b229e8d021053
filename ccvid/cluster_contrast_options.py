"""Settings of learning without person labels, by groups that are found again and again. Does not import torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from data_tools.options import Options, Rare


class RecolouringOptions(Options):
    """Random changes to a clip below the neck, so that the network learns what clothes do not change."""

    share: float = Field(default=0.9, ge=0, le=1)
    """Probability of other colours, which are drawn above and below the waist."""
    hidden_share: float = Field(default=0.5, ge=0, le=1)
    """Probability that nothing below the neck is left."""
    neck: float = Field(default=0.2, ge=0, le=1)
    """Share of the height of a crop above the neck. 0: heads change, too."""


class ClusterContrastOptions(Options):
    """Cluster contrast: groups of similar training tracklets stand for persons."""

    start_epoch: int = Field(default=5, ge=0)
    """Epoch of the first grouping. Before it, each tracklet is a class of its own."""
    renew_every: int = Field(default=2, ge=1)
    """Epochs between groupings."""
    neighbours: int = Field(default=10, ge=1, le=1000)
    """Nearest tracklets that must be mutual to count: about as many as a person has."""
    averaged_neighbours: Annotated[int, Rare()] = Field(default=2, ge=1, le=1000)
    """Nearest tracklets over which those weights are averaged; 1: no averaging."""
    reach: float = Field(default=0.5, gt=0, lt=1)
    """Largest distance of neighbours in a group. It is the Jaccard distance of their nearest tracklets."""
    least: Annotated[int, Rare()] = Field(default=2, ge=2)
    """Neighbours within reach, itself included, that make a tracklet the core of a group."""
    by_head: bool = False
    """Group by what is above the neck alone, see recolouring.neck."""
    collapsed_share: Annotated[float, Rare()] = Field(default=0.5, gt=0, le=1)
    """Share of the tracklets in one group above which a grouping is refused."""
    by_camera: bool = True
    """Compare a clip with the centroids of each camera apart, so that what tells cameras apart does not help."""
    temperature: Annotated[float, Rare()] = Field(default=0.07, gt=0)
    """What cosines are divided by in the loss."""
    momentum: Annotated[float, Rare()] = Field(default=0.2, ge=0, lt=1)
    """Share of an old centroid that an update keeps."""
    recolouring: RecolouringOptions = RecolouringOptions()
    """Random changes to what people wear."""
