"""The recipe: every choice of a run, each with its range and its meaning.

A recipe file names only what differs from the defaults here; every field is also a flag of every job.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from data_tools.clips import ClipOptions
from data_tools.datasets.ccvid import CcvidOptions
from data_tools.datasets.clip_folder import ClipFolderOptions
from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.mevid import MevidOptions
from data_tools.identity_sampler import PkOptions
from data_tools.loader import LoaderOptions
from data_tools.options import AbsolutePath, Options
from data_tools.shard_plan import ShardOptions
from data_tools.transforms import AugmentOptions
from data_tools.walkers import WalkerOptions
from video_backbones import BackboneName

DatasetKind = Literal["synthetic", "ccvid", "mevid", "footage", "clips"]


class RunOptions(Options):
    """Where a run's results go."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Results stand under storage/name; the same command with the same name goes on with the run."""
    storage: AbsolutePath = Path("~/ccvid/runs")
    """Folder of all runs. On several nodes it must be the same folder on each (a network file system)."""


class DataOptions(Options):
    """Which tracklets, and how they are stored."""

    kind: DatasetKind = "synthetic"
    """synthetic: rendered walkers; ccvid, mevid: as released; footage: videos with tracks; clips: a folder of
    video files, one person each."""
    root: AbsolutePath | None = None
    """Folder of the released data set (the one that holds train.txt, or train_name.txt)."""
    shards: AbsolutePath | None = None
    """Folder of the Arrow shards; made from the sources when it holds none yet. Default: ~/ccvid/data/KIND."""
    storage: ShardOptions = ShardOptions()
    """How shards store frames."""
    verify_checksums: bool = True
    """Compare every shard's SHA-256 with the manifest's before training starts."""
    synthetic: WalkerOptions = WalkerOptions()
    """The synthetic walkers."""
    ccvid: CcvidOptions = CcvidOptions()
    """How CCVID is read."""
    mevid: MevidOptions = MevidOptions()
    """How MEVID is read."""
    footage: FootageOptions | None = None
    """Videos with tracks."""
    clips: ClipFolderOptions | None = None
    """A folder of clips."""


class ModelOptions(Options):
    """The network."""

    backbone: BackboneName = "c2d_resnet50"
    """Network from clip to feature."""
    weights: str = "imagenet"
    """Initial weights: random, imagenet or kinetics (from torchvision), or a file (.safetensors, or .pth)."""
    last_stride: Literal[1, 2] = 1
    """Stride of the last stage; 1 keeps twice the resolution."""
    height: int = Field(default=256, ge=16, le=2048)
    """Height in pixels of the frames that the network sees."""
    width: int = Field(default=128, ge=16, le=2048)
    """Width in pixels of the frames that the network sees."""


class MethodOptions(Options):
    """The losses: CAL, or the identity baseline."""

    clothes_loss: bool = True
    """Clothes-based adversarial loss (CAL). False: the identity baseline."""
    start_epoch: int = Field(default=50, ge=0)
    """Epoch at which the clothes classifier begins to learn and the adversarial loss to act."""
    scale: float = Field(default=16, gt=0)
    """s: scale of the cosines in both clothes losses."""
    epsilon: float = Field(default=0.1, ge=0, le=1)
    """Share of the adversarial loss that is spread over all outfits of the person."""
    weight: float = Field(default=1, ge=0)
    """Weight of the adversarial loss beside the identity loss."""
    label_smoothing: float = Field(default=0, ge=0, lt=1)
    """Label smoothing of the identity loss."""


class OptimOptions(Options):
    """Optimizer and learning rate."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """Of both optimizers."""
    learning_rate: float = Field(default=3.5e-4, gt=0)
    """At its height, for batches of all workers together."""
    clothes_learning_rate: float | None = Field(default=None, gt=0)
    """Of the clothes classifier; nothing: the same."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Of all parameters; part of the gradient for adam and sgd, apart from it for adamw."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """For sgd."""
    schedule: Literal["multistep", "cosine"] = "multistep"
    """multistep: times decay at each milestone; cosine: down to nothing at the last step."""
    milestones: tuple[int, ...] = (40, 80, 120)
    """Epochs of the multistep schedule."""
    decay: float = Field(default=0.1, gt=0, le=1)
    """Factor at each milestone."""
    warmup_epochs: float = Field(default=0, ge=0)
    """Epochs over which the learning rate rises evenly from near nothing."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the model's gradient; nothing: not clipped."""


class TrainOptions(Options):
    """The course of training."""

    epochs: int = Field(default=150, ge=1)
    """Passes over the training identities' clips."""
    seed: int = Field(default=1, ge=0, lt=2**32)
    """Decides the first weights, batches, clips and augmentation."""
    held_out_share: float = Field(default=0, ge=0, lt=1)
    """Share of the training identities kept out of training, to choose the best checkpoint on; 0: none."""
    validate_every: int = Field(default=10, ge=1)
    """Epochs between validations on the held-out identities."""
    test_weights: Literal["best", "last"] = "last"
    """Which weights the test set is scored with: the best on the held-out identities, or the last."""
    checkpoint_every_epochs: int = Field(default=1, ge=1)
    """Epochs between checkpoints; the last epoch always has one."""
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    """Also a checkpoint every so many steps of an epoch, for long epochs."""
    checkpoints_kept: int = Field(default=2, ge=1)
    """The last so many checkpoints stay; the best on validation stays beside them."""
    log_every_seconds: float = Field(default=10, gt=0)
    """Time between progress lines."""
    bf16: bool = False
    """bfloat16 autocast of the backbone."""
    sync_batchnorm: bool = False
    """Batch statistics over all workers' clips."""
    compile: bool = False
    """torch.compile the model."""
    test_clips_per_batch: int = Field(default=16, ge=1)
    """Clips embedded at a time when scoring."""


class ComputeOptions(Options):
    """Workers and what each is given."""

    workers: int | None = Field(default=None, ge=1)
    """Training workers. Nothing: one a GPU, or without GPUs one for each node's CPUs."""
    use_gpu: bool | None = None
    """Nothing: where there are GPUs."""
    cpus_per_worker: int | None = Field(default=None, ge=1)
    """CPUs of each worker. Nothing: a node's CPUs, divided by its workers."""
    max_failures: int = Field(default=3, ge=0)
    """How often workers may fail before the run does; each time it goes on from the last checkpoint."""


class Recipe(Options):
    """A whole run."""

    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions()
    clip: ClipOptions = ClipOptions()
    batch: PkOptions = PkOptions()
    augment: AugmentOptions = AugmentOptions()
    loader: LoaderOptions = LoaderOptions()
    model: ModelOptions = ModelOptions()
    method: MethodOptions = MethodOptions()
    optim: OptimOptions = OptimOptions()
    train: TrainOptions = TrainOptions()
    compute: ComputeOptions = ComputeOptions()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.train.test_weights == "best" and self.train.held_out_share == 0:
            raise ValueError("train.test_weights 'best' needs train.held_out_share above 0")
        data = self.data
        sources = {"ccvid": data.root, "mevid": data.root, "footage": data.footage, "clips": data.clips}
        if sources.get(data.kind, True) is None and data.shards is None:
            flag = {"footage": "footage.videos", "clips": "clips.folder"}.get(data.kind, "root")
            raise ValueError(f"data.kind {data.kind!r} needs its sources, --data.{flag}, or made shards, --data.shards")
        return self
