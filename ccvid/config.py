"""The recipe: every choice of a run, each with its range and its meaning.

A recipe file names only what differs from the defaults here; every field is also a flag of every job.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError, create_model, model_validator

from ccvid.loss_choices import IDENTITY_LOSSES, PAIR_LOSSES, losses_with
from data_tools.clips import ClipOptions
from data_tools.datasets.clip_folder import ClipFolderOptions
from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.released import RELEASED_SETS, kinds_of, listed_roots
from data_tools.identity_sampler import PkOptions
from data_tools.loading_options import AugmentOptions, LoaderOptions, ResizeFilter
from data_tools.options import AbsolutePath, MayChange, Options, Place
from data_tools.shard_cache import CacheOptions
from data_tools.shard_plan import ShardOptions
from data_tools.walkers import WalkerOptions
from data_tools.wording import listed
from video_backbones import SpatialPoolName, TemporalPoolName, backbone_names, check_name, published_kinds

if TYPE_CHECKING:
    DatasetKind = str
    IdentityLossName = str
    PairLossName = str
else:  # what there is, the tables say
    DatasetKind = Literal[("synthetic", *RELEASED_SETS, "footage", "clips")]
    IdentityLossName = Literal[tuple(IDENTITY_LOSSES)]
    PairLossName = Literal[("none", *PAIR_LOSSES)]


def _one_or_range(workers: object) -> object:
    """A number, also as the command line's list of one, or a range."""
    if workers is None:
        return None
    numbers = map(str, workers if isinstance(workers, list | tuple) else [workers])
    counts = [int(number) if number.isdecimal() else 0 for number in numbers]
    if len(counts) not in (1, 2) or not 1 <= counts[0] <= counts[-1]:
        raise ValueError(f"{workers!r} is no number of workers and no range of them, expected 8 or [2, 8]")
    return counts[0] if len(counts) == 1 else tuple(counts)


WorkerCount = Annotated[int | tuple[int, int], BeforeValidator(_one_or_range)]


def _check_tracking_uri(uri: str) -> str:
    if uri.startswith(("http://", "https://")):
        return uri
    path = uri.removeprefix("sqlite:///")
    if "://" in path:
        raise ValueError(f"{uri} is neither a server's http:// or https:// address nor a file")
    return f"sqlite:///{Path(path).expanduser().absolute()}"  # workers run in folders of their own


TrackingUri = Annotated[str, AfterValidator(_check_tracking_uri)]


def _auto_or_bool(value: object) -> object:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        raise ValueError(f"{value!r}, expected auto, true or false") from None


AutoOrBool = Annotated[Literal["auto"] | bool, BeforeValidator(_auto_or_bool)]


class RunOptions(Options):
    """Where a run's results go."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Results stand under storage/name; the same command with the same name goes on with the run."""
    storage: Place = "~/ccvid/runs"
    """Folder of all runs, or a URI such as s3://bucket/runs. On several nodes a folder must be the same one on each (a
    network file system)."""
    patience_seconds: float = Field(default=600, ge=0)
    """How long a write that the storage refuses is tried again before the worker fails."""
    mlflow: TrackingUri | None = None
    """Log to MLflow as well: its server's http(s):// address, or a file for its SQLite database."""


class DataOptions(Options):
    """Which tracklets, and how they are stored."""

    kind: DatasetKind = Field(
        default="synthetic",
        description=f"synthetic: rendered walkers; {', '.join(kinds_of('tracklets'))}: tracklets as released; "
        f"{', '.join(kinds_of('images'))}: images as released, each a tracklet of one frame; "
        "footage: videos with tracks; clips: a folder of video files, one person each.",
    )
    root: AbsolutePath | None = Field(
        default=None, description=f"Folder of the released data set: the one that holds {listed_roots()}."
    )
    shards: Place | None = None
    """Folder of the Arrow shards, or a URI such as s3://bucket/ccvid; made from the sources when it holds none yet.
    Default: ~/ccvid/data/KIND, and KIND-source or KIND-raw where frames are stored so."""
    cache: Annotated[CacheOptions, MayChange()] = CacheOptions()
    """Where each node keeps remote shards."""
    storage: ShardOptions = ShardOptions()
    """How shards store frames."""
    verify_checksums: Annotated[bool, MayChange()] = True
    """Compare every shard's SHA-256 with the manifest's before training starts."""
    synthetic: WalkerOptions = WalkerOptions()
    """The synthetic walkers."""
    footage: FootageOptions | None = None
    """Videos with tracks."""
    clips: ClipFolderOptions | None = None
    """A folder of clips."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_other_sources(cls, values: object) -> object:
        """How sources of another kind are read says nothing where none are named: a recipe of footage with clips."""
        if not isinstance(values, dict):
            return values
        needed = {"footage": "videos", "clips": "folder"}
        unused = [
            kind
            for kind, source in needed.items()
            if kind != values.get("kind") and isinstance(values.get(kind), dict) and source not in values[kind]
        ]
        return {name: value for name, value in values.items() if name not in unused}

    def released(self) -> Options | None:
        """How the released data set of this kind is read; None where there is nothing to choose."""
        return getattr(self, self.kind, None)


if not TYPE_CHECKING:  # with a section for each released data set that has options
    DataOptions = create_model(
        "DataOptions",
        __base__=DataOptions,
        __doc__=DataOptions.__doc__,
        __module__=__name__,
        **{
            kind: (row.options, Field(default=row.options(), description=f"How {row.title} is read."))
            for kind, row in RELEASED_SETS.items()
            if row.options is not None
        },
    )


class ModelOptions(Options):
    """The network."""

    backbone: Annotated[str, AfterValidator(check_name)] = Field(
        default="c2d_resnet50",
        description=f"Network from clip to feature: {', '.join(backbone_names())}, or timm/NAME.",
    )
    weights: str = Field(
        default="imagenet",
        description=f"Initial weights: {listed(['random', *published_kinds()], 'or')} (from torchvision), or a file: "
        ".safetensors, a state dict saved by torch.save, or a released .pth.tar.",
    )
    last_stride: Literal[1, 2] = 1
    """Stride of the last stage; 1 keeps twice the resolution."""
    height: int = Field(default=256, ge=16, le=2048)
    """Height in pixels of the frames that the network sees."""
    width: int = Field(default=128, ge=16, le=2048)
    """Width in pixels of the frames that the network sees."""
    resize_filter: ResizeFilter = "bicubic"
    """How stored frames of another size are resized: bicubic as published for video, bilinear for images."""
    spatial_pool: SpatialPoolName = "max"
    """How a frame's map becomes one vector; max_avg is both, one after the other, twice the features."""
    temporal_pool: TemporalPoolName = "mean"
    """How a clip's frames become one vector."""


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
    clothes_labels: Literal["given", "colours"] = "given"
    """given: the data's clothes labels; colours: outfits guessed from colour histograms, for data without labels."""
    colour_distance: float = Field(default=0.4, gt=0, lt=1)
    """Distance of colour histograms (0 to 1) from which on guessed outfits differ."""
    clothes_memory: bool = False
    """Class means in a memory bank in place of the clothes classifier."""
    memory_momentum: float = Field(default=0.2, ge=0, lt=1)
    """Share of a class's old mean that a batch leaves in the memory bank."""
    identity_loss: IdentityLossName = Field(
        default="cross_entropy",
        description="Loss of the identity classifier; all but "
        f"{listed(name for name, loss in IDENTITY_LOSSES.items() if not loss.cosines)} classify by cosines.",
    )
    identity_scale: float = Field(default=16, gt=0)
    """Scale of the cosines in the identity loss."""
    identity_margin: float = Field(
        default=0,
        ge=0,
        lt=1,
        description=f"Margin in the identity losses {listed(losses_with('margin', IDENTITY_LOSSES))}: "
        "of the angle in radians for arcface, else of the cosine.",
    )
    label_smoothing: float = Field(
        default=0,
        ge=0,
        lt=1,
        description=f"Label smoothing of the identity loss {listed(losses_with('label_smoothing', IDENTITY_LOSSES))}.",
    )
    pair_loss: PairLossName = "none"
    """A loss between the features of all workers' batches, beside the identity loss."""
    pair_weight: float = Field(default=1, gt=0)
    """Weight of the pair loss beside the identity loss."""
    pair_scale: float = Field(
        default=16,
        gt=0,
        description=f"Scale of the cosines in the pair losses {listed(losses_with('scale', PAIR_LOSSES))}.",
    )
    pair_margin: float = Field(
        default=0.3, ge=0, lt=1, description=f"Margin in the pair losses {listed(losses_with('margin', PAIR_LOSSES))}."
    )

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> MethodOptions:
        smoothed = losses_with("label_smoothing", IDENTITY_LOSSES)
        if self.label_smoothing and self.identity_loss not in smoothed:
            raise ValueError(f"label_smoothing needs identity_loss {listed(smoothed, 'or')}, not {self.identity_loss}")
        if self.clothes_memory and not self.clothes_loss:
            raise ValueError("clothes_memory needs clothes_loss")
        return self


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
    checkpoint_every_epochs: Annotated[int, MayChange()] = Field(default=1, ge=1)
    """Epochs between checkpoints; the last epoch always has one."""
    checkpoint_share: Annotated[float, MayChange()] = Field(default=0.02, gt=0, le=1)
    """Most of the time that these may hold up training: where epochs are short, some have none. 1: each has one."""
    checkpoint_every_steps: Annotated[int | None, MayChange()] = Field(default=None, ge=1)
    """Also a checkpoint every so many steps of an epoch, for long epochs."""
    checkpoints_kept: Annotated[int, MayChange()] = Field(default=2, ge=1)
    """The last so many checkpoints stay; the best on validation stays beside them."""
    log_every_seconds: Annotated[float, MayChange()] = Field(default=10, gt=0)
    """Time between progress lines."""
    bf16: AutoOrBool = False
    """bfloat16 autocast of the backbone. auto: where it is faster than float32, found before the start on the machines
    that train, or that embed; a run that resumes and an embedding store keep what was found."""
    sync_batchnorm: bool = False
    """Batch statistics over all workers' clips."""
    compile: bool = False
    """torch.compile the model."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Score with an exponential moving average of the weights, which keeps so much of itself at each step."""


class ProtocolOptions(Options):
    """A retrieval protocol of one's own: which gallery entries of the query's person count as matches."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", max_length=60)
    """Its name in metrics.json."""
    agree: tuple[str, ...] = ()
    """What a match has in common with the query: camera, clothes, or an attribute."""
    differ: tuple[str, ...] = ("camera",)
    """In what a match differs from the query."""
    within: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Only queries and gallery entries that have one of these labels take part: {camera: ["2", "3"]}."""


class ThresholdOptions(Options):
    """From which score on two tracklets are taken for one person."""

    far: float = Field(default=0.01, gt=0, lt=1)
    """The false-accept (false-match) rate that the recommended threshold keeps: of pairs of two persons, the share
    that it takes for one."""
    calibration: Literal["logistic", "isotonic"] = "logistic"
    """How scores become probabilities; isotonic bends more and needs more people."""
    prior: float | None = Field(default=None, gt=0, lt=1)
    """Share of the pairs looked at that show one person, which probabilities depend on. Nothing: that of the scored
    queries and gallery."""
    draws: int = Field(default=1000, ge=100, le=100_000)
    """Bootstrap draws of persons for each interval."""


class ScoreOptions(Options):
    """How tracklets are embedded and scored."""

    clips_per_batch: int | None = Field(default=None, ge=1)
    """Clips embedded at a time. Nothing: 16, on a GPU as many as its memory holds, to 256."""
    flip: bool = False
    """Add the feature of the mirrored clip."""
    protocols: tuple[ProtocolOptions, ...] = ()
    """Protocols beside the usual ones, each {"name": ..., "agree": [...], "differ": [...], "within": {...}}."""
    single_shot_draws: int = Field(default=0, ge=0, le=1000)
    """Score also against galleries of one tracklet a person, drawn so many times (PRCC: 10); 0: not."""
    threshold: ThresholdOptions = ThresholdOptions()
    """The recommended threshold and probabilities."""
    post_processing: bool = False
    """Score re-ranking, query expansion, gallery centroids and camera means too, each with its gain and cost."""
    report: bool = True
    """Write a report (tables with intervals, charts, filmstrips of every query) and ranked pictures. False: numbers
    alone."""


class ComputeOptions(Options):
    """Workers and what each is given."""

    workers: WorkerCount | None = None
    """Training workers. [2, 8]: as many of 2 to 8 as find room, also while the run goes on; optim.learning_rate is that
    of the most, and falls in proportion. Nothing: one a GPU, or without GPUs one for each node's CPUs."""
    use_gpu: bool | None = None
    """Nothing: where there are GPUs."""
    cpus_per_worker: int | None = Field(default=None, ge=1)
    """CPUs of each worker. Nothing: a node's CPUs, divided by its workers."""
    max_failures: int = Field(default=3, ge=0)
    """How often workers may fail before the run does; each time it goes on from the last checkpoint."""
    resize_every_seconds: float = Field(default=60, ge=1)
    """With a range of workers: time between looks for room for more; each change goes on from the last checkpoint."""
    hang_seconds: float = Field(default=900, ge=1)
    """A worker that neither makes a step nor embeds a batch for so long hangs: it is ended, which counts as a
    failure."""
    decoders: int = Field(default=0, ge=0, le=256)
    """Actors that decode for each worker, on nodes without GPUs where there are such; 0: it decodes itself."""


class Recipe(Options):
    """A whole run."""

    run: Annotated[RunOptions, MayChange()] = RunOptions()
    data: DataOptions = DataOptions()
    clip: ClipOptions = ClipOptions()
    batch: PkOptions = PkOptions()
    augment: AugmentOptions = AugmentOptions()
    loader: Annotated[LoaderOptions, MayChange()] = LoaderOptions()
    model: ModelOptions = ModelOptions()
    method: MethodOptions = MethodOptions()
    optim: OptimOptions = OptimOptions()
    train: TrainOptions = TrainOptions()
    score: ScoreOptions = ScoreOptions()
    compute: Annotated[ComputeOptions, MayChange()] = ComputeOptions()

    def with_bf16(self, bf16: bool) -> Recipe:
        """The recipe with its precision decided."""
        return self.model_copy(update={"train": self.train.model_copy(update={"bf16": bf16})})

    def within(self, cpus: int) -> Recipe:
        """The recipe for a worker of so many CPUs: no more loader threads, or processes, than that."""
        loader = self.loader
        fitting = {"threads": min(loader.threads, cpus), "processes": min(loader.processes, cpus)}
        return self.model_copy(update={"loader": loader.model_copy(update=fitting)})

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.run.patience_seconds >= self.compute.hang_seconds:
            raise ValueError("run.patience_seconds must be below compute.hang_seconds: who waits does not hang")
        if self.compute.decoders and self.loader.processes:
            raise ValueError("compute.decoders decode in place of loader.processes: name one of them")
        if self.train.test_weights == "best" and self.train.held_out_share == 0:
            raise ValueError("train.test_weights 'best' needs train.held_out_share above 0")
        if self.method.pair_loss != "none" and self.batch.clips == 1:
            raise ValueError("method.pair_loss needs batch.clips of 2 or more: a clip has to have another to pair with")
        data = self.data
        own_sources = {"synthetic": data.synthetic, "footage": data.footage, "clips": data.clips}
        if own_sources.get(data.kind, data.root) is None and data.shards is None:
            flag = {"footage": "footage.videos", "clips": "clips.folder"}.get(data.kind, "root")
            raise ValueError(f"data.kind {data.kind!r} needs its sources, --data.{flag}, or made shards, --data.shards")
        return self
