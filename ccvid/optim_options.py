"""Settings of optimizer and learning rate. Does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_tools.options import Options, Rare


class OptimOptions(Options):
    """Optimizer and learning rate."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """Optimizer of network and clothes classifier."""
    learning_rate: float = Field(default=3.5e-4, gt=0)
    """Peak learning rate for all workers' batches. It is meant for the batches of all workers together."""
    clothes_learning_rate: Annotated[float | None, Rare()] = Field(default=None, gt=0)
    """Peak learning rate of the clothes classifier. Default: optim.learning_rate."""
    bias_rate: Annotated[float, Rare()] = Field(default=1, gt=0)
    """Factor on the learning rate of parameters with bias in their name."""
    layer_decay: Annotated[float | None, Rare()] = Field(default=None, gt=0, lt=1)
    """Factor on the learning rate from each block of a transformer to the one before it, so that layers learn the less
    the earlier they come. Default: all layers learn at the same rate."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay of the parameters. It is part of the gradient (L2) for adam and sgd, decoupled for adamw."""
    decay_all: Annotated[bool, Rare()] = True
    """Decay all parameters. False: no weight decay of biases, norms, tokens and position tables."""
    momentum: Annotated[float, Rare()] = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd."""
    fused: Annotated[bool, Rare()] = False
    """Use PyTorch's fused optimizers, which update all parameters in one kernel. Results differ in the last digits."""
    schedule: Literal["multistep", "cosine", "epoch_cosine"] = "multistep"
    """Learning rate decay. multistep: at each milestone; cosine: to zero at the last step; epoch_cosine: by epochs, to
    optim.final_rate."""
    milestones: tuple[int, ...] = (40, 80, 120)
    """Epochs of the multistep decay."""
    decay: Annotated[float, Rare()] = Field(default=0.1, gt=0, le=1)
    """Factor by which the multistep schedule decays the learning rate."""
    warmup_epochs: float = Field(default=0, ge=0)
    """Epochs of linear warmup. It starts near zero, or at optim.warmup_rate with epoch_cosine."""
    warmup_rate: Annotated[float, Rare()] = Field(default=0, ge=0)
    """Learning rate from which the warmup of epoch_cosine starts, the same for all parameters."""
    final_rate: Annotated[float, Rare()] = Field(default=0, ge=0)
    """Learning rate of the last epoch of epoch_cosine, the same for all parameters."""
    clip_norm: Annotated[float | None, Rare()] = Field(default=None, gt=0)
    """Clip the gradient of the network to this norm. Default: no clipping."""

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> OptimOptions:
        for name in ("warmup_rate", "final_rate"):
            if getattr(self, name) and self.schedule != "epoch_cosine":
                raise ValueError(f"{name} needs schedule epoch_cosine, not {self.schedule}")
            if getattr(self, name) and self.layer_decay is not None:
                raise ValueError(f"{name} is the same for all layers and would undo layer_decay: set only one of them")
        if self.warmup_rate and not self.warmup_epochs:
            raise ValueError("warmup_rate needs warmup_epochs above 0")
        lowest = min(self.learning_rate, self.clothes_learning_rate or self.learning_rate) * min(1, self.bias_rate)
        if max(self.warmup_rate, self.final_rate) > lowest:
            raise ValueError(
                f"warmup_rate and final_rate must not be above any learning rate: expected at most {lowest:g}"
            )
        return self
