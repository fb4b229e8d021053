"""Settings of learning without person labels, by groups that are found again and again. Does not import torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ccvid.other_clothes_options import OtherClothesOptions
from data_tools.options import Options, Rare


class ClusterContrastOptions(Options):
    """Cluster contrast: groups of similar training tracklets stand for persons."""

    start_epoch: Annotated[int, Rare()] = Field(default=4, ge=0)
    """Epoch of the first grouping by the network. Before it, tracklets with the same colours of clothes are a class."""
    renew_every: Annotated[int, Rare()] = Field(default=1, ge=1)
    """Epochs between groupings."""
    neighbours: int = Field(default=10, ge=1, le=1000)
    """Nearest tracklets that must be mutual to count: about as many as a person has."""
    outfit_neighbours: Annotated[int, Rare()] = Field(default=4, ge=1, le=1000)
    """The same for colours: about as many as a person has in one outfit."""
    averaged_neighbours: Annotated[int, Rare()] = Field(default=2, ge=1, le=1000)
    """Nearest tracklets over which those weights are averaged; 1: no averaging."""
    reach: Annotated[float, Rare()] = Field(default=0.5, gt=0, lt=1)
    """Largest distance of neighbours in a group. It is the Jaccard distance of their nearest tracklets."""
    least: Annotated[int, Rare()] = Field(default=2, ge=2)
    """Neighbours within reach, itself included, that make a tracklet the core of a group."""
    by_head: Annotated[bool, Rare()] = True
    """Group by what is above the neck alone, averaged over the tracklets with the same colours of clothes. False: group
    by the whole picture, which finds outfits rather than persons."""
    collapsed_share: Annotated[float, Rare()] = Field(default=0.5, gt=0, le=1)
    """Share of the tracklets in one group above which a grouping is refused."""
    by_camera: Annotated[bool, Rare()] = True
    """Compare a clip with the centroids of each camera apart, so that what tells cameras apart does not help."""
    temperature: Annotated[float, Rare()] = Field(default=0.07, gt=0)
    """What cosines are divided by in the loss."""
    spared: Annotated[int, Rare()] = Field(default=12, ge=0, le=1000)
    """Centroids of other classes, the nearest to a clip, that it is not pushed away from: some may be other outfits of
    the same person. About as many tracklets as a person has; at most a tenth of all centroids."""
    momentum: Annotated[float, Rare()] = Field(default=0.2, ge=0, lt=1)
    """Share of an old centroid that an update keeps."""
    other_clothes: Annotated[OtherClothesOptions, Rare()] = OtherClothesOptions()
    """Random changes to what people wear."""
