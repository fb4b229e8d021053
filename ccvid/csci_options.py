"""Settings of CSCI (Pathak and Rawat, ICCV 2025). Does not import torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ccvid.colour_target_options import ColourTargetOptions
from ccvid.other_clothes_options import OtherClothesOptions
from data_tools.loading_options import AugmentOptions, ResizeFilter
from data_tools.options import Options, Rare


class CsciOptions(Options):
    """CSCI: identity and colour tokens kept apart, with colour histograms as targets instead of clothes labels."""

    colours: ColourTargetOptions = ColourTargetOptions()
    """The colour histogram of a picture that the colour token learns."""
    triplet_weight: Annotated[float, Rare()] = Field(default=1, ge=0)
    """Weight of the triplet loss relative to the identity loss."""
    colour_weight: Annotated[float, Rare()] = Field(default=1, ge=0)
    """Weight of the colour loss relative to the identity loss."""
    disentangling_weight: Annotated[float, Rare()] = Field(default=1, ge=0)
    """Weight of the loss that keeps colour and identity features apart, relative to the identity loss."""
    motion_weight: Annotated[float, Rare()] = Field(default=1, ge=0)
    """Weight of the motion loss relative to the identity loss."""
    triplets_of_all_workers: Annotated[bool, Rare()] = True
    """Mine the triplets in the batches of all workers together. False: each worker in its own, as published."""
    picture_augment: Annotated[AugmentOptions, Rare()] = AugmentOptions(flip=0.5, crop=0.5, erase=0.5)
    """Random changes to the single pictures that a video network learns colours from."""
    picture_filter: Annotated[ResizeFilter, Rare()] = "bilinear"
    """How those pictures are resized."""
    other_clothes: Annotated[OtherClothesOptions, Rare()] = OtherClothesOptions(swapped_share=0, hidden_share=0)
    """Random changes to what people wear, before colours are computed; not published. For a network without
    pre-training, which else learns outfits."""
