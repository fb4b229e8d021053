"""The recipe: every choice of a run, each with its range and its meaning.

A recipe file names only what differs from the defaults here; every field is also a flag of every job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    create_model,
    model_validator,
)

from ccvid.loss_choices import IDENTITY_LOSSES, PAIR_LOSSES, losses_with
from ccvid.method_choices import METHODS
from ccvid.optim_options import OptimOptions
from ccvid.setting_kinds import (
    AutoOrBool,
    DatasetKind,
    IdentityLossName,
    MethodName,
    PairLossName,
    TrackingUri,
    WorkerCount,
)
from data_tools.clips import ClipOptions
from data_tools.datasets.clip_folder import ClipFolderOptions
from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.released import RELEASED_SETS, kinds_of, listed_roots
from data_tools.identity_sampler import PkOptions
from data_tools.loading_options import AugmentOptions, LoaderOptions, ResizeFilter
from data_tools.options import AbsolutePath, MayChange, Options, Place, Rare
from data_tools.shard_cache import CacheOptions
from data_tools.shard_plan import ShardOptions
from data_tools.walkers import WalkerOptions
from data_tools.wording import listed
from video_backbones import (
    AttentionName,
    SpatialPoolName,
    TemporalPoolName,
    backbone_names,
    check_name,
    csci_names,
    is_csci,
    published_kinds,
)


class RunOptions(Options):
    """Where a run's results go."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Results go to storage/name. The same command with the same name resumes the run."""
    storage: Place = "~/ccvid/runs"
    """Folder or URI of all runs. An example of a URI is s3://bucket/runs. On several nodes a folder must be on a file
    system that all of them share."""
    patience_seconds: Annotated[float, Rare()] = Field(default=600, ge=0)
    """How long to retry when the storage refuses a write, before the worker fails."""
    mlflow: TrackingUri | None = None
    """Log to this MLflow server or SQLite file. A server has an http:// or https:// address. Default: no MLflow."""


class DataOptions(Options):
    """The tracklets, and how they are stored."""

    kind: DatasetKind = Field(
        default="synthetic",
        description=f"Where the tracklets come from. synthetic: rendered walkers. {', '.join(kinds_of('tracklets'))}: "
        f"tracklets as released. {', '.join(kinds_of('images'))}: images as released, each a tracklet of one frame. "
        "footage: videos with tracks. clips: a folder of video files with one person each.",
    )
    root: AbsolutePath | None = Field(
        default=None, description=f"Folder of the data set as released. It holds {listed_roots()}."
    )
    shards: Place | None = None
    """Folder or URI of the Arrow shards; made if there are none. After KIND the default has -source or -raw for these
    storage modes. Default: ~/ccvid/data/KIND."""
    cache: Annotated[CacheOptions, MayChange()] = CacheOptions()
    """Where each node keeps copies of remote shards."""
    frames: ShardOptions = ShardOptions()
    """How shards store frames."""
    verify_checksums: Annotated[bool, MayChange(), Rare()] = True
    """Compare the SHA-256 of every shard with the manifest before the run starts."""
    synthetic: WalkerOptions = WalkerOptions()
    """Synthetic walkers."""
    footage: FootageOptions | None = None
    """Videos with tracks."""
    clips: ClipFolderOptions | None = None
    """A folder of clips."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_other_sources(cls, values: object) -> object:
        """Drop how another kind of data is read where its sources are not set: a footage recipe used for clips."""
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
        description=f"Network from clip to feature: {', '.join(backbone_names())}, or timm/NAME. "
        f"CSCI's are {listed(csci_names())}, or the same with any EVA-02 or ViT of timm.",
    )
    weights: str = Field(
        default="imagenet",
        description=f"Initial weights: {', '.join(['random', *published_kinds()])} or a file. Published weights are "
        "torchvision's or timm's; a file, by path or URI, is .safetensors, a state dict saved with torch.save, or a "
        "released .pth.tar.",
    )
    last_stride: Annotated[Literal[1, 2], Rare()] = 1
    """Stride of the last stage; 1 keeps twice the resolution."""
    height: int = Field(default=256, ge=16, le=2048)
    """Height in pixels of the network's input."""
    width: int = Field(default=128, ge=16, le=2048)
    """Width in pixels of the network's input."""
    resize_filter: Annotated[ResizeFilter, Rare()] = "bicubic"
    """How stored frames of another size are resized. Published results use bicubic for video, bilinear for images."""
    spatial_pool: Annotated[SpatialPoolName, Rare()] = "max"
    """How a frame's feature map is pooled to one vector. max_avg concatenates both, which doubles the feature size."""
    temporal_pool: Annotated[TemporalPoolName, Rare()] = "mean"
    """How the frame features of a clip are pooled to one vector."""
    patch: Annotated[int | None, Rare()] = Field(default=None, ge=1, le=256)
    """Height and width in pixels of a patch of CSCI's networks. Default: that of the named network."""
    drop_path: Annotated[float, Rare()] = Field(default=0, ge=0, lt=1)
    """Stochastic depth of CSCI's networks: probability that the last block is skipped, less for earlier ones."""
    checkpoint_blocks: Annotated[bool, Rare()] = False
    """Recompute each block of the network in the backward pass. It saves memory and costs time; results are the same.
    Networks timm/NAME cannot."""
    attention: Annotated[AttentionName, Rare()] = "s2a"
    """How class and colour token of CSCI's networks see each other. s2a: not, as published; masked: not, in one
    softmax; joint: fully."""


class MethodOptions(Options):
    """The losses: CAL, the identity baseline, or another method."""

    name: MethodName = Field(
        default="cal",
        description=f"Method: {listed((f'{name} ({row.title})' for name, row in METHODS.items()), 'or')}. Settings of "
        "method itself are those of cal; the others have sections of their own.",
    )
    clothes_loss: bool = True
    """Use the clothes-based adversarial loss (CAL). False: the identity baseline."""
    start_epoch: int = Field(default=50, ge=0)
    """Epoch from which the clothes losses apply. The clothes classifier is trained from then on, too."""
    scale: Annotated[float, Rare()] = Field(default=16, gt=0)
    """Scale s of the cosines in both clothes losses."""
    epsilon: float = Field(default=0.1, ge=0, le=1)
    """Share of the adversarial loss spread over all outfits of the person."""
    weight: Annotated[float, Rare()] = Field(default=1, ge=0)
    """Weight of the adversarial loss relative to the identity loss."""
    clothes_labels: Annotated[Literal["given", "colours"], Rare()] = "given"
    """Clothes labels of the data, or outfits guessed from colour histograms for data without labels."""
    colour_distance: Annotated[float, Rare()] = Field(default=0.4, gt=0, lt=1)
    """Distance between colour histograms (0 to 1) above which guessed outfits differ."""
    clothes_memory: Annotated[bool, Rare()] = False
    """Use class means in a memory bank instead of the clothes classifier."""
    memory_momentum: Annotated[float, Rare()] = Field(default=0.2, ge=0, lt=1)
    """Share of a class's old mean that an update keeps in the memory bank."""
    identity_loss: IdentityLossName = Field(
        default="cross_entropy",
        description="Loss of the identity classifier. All but "
        f"{listed(name for name, loss in IDENTITY_LOSSES.items() if not loss.cosines)} classify by cosines.",
    )
    identity_scale: Annotated[float, Rare()] = Field(default=16, gt=0)
    """Scale of the cosines in the identity loss."""
    identity_margin: Annotated[float, Rare()] = Field(
        default=0,
        ge=0,
        lt=1,
        description=f"Margin in the identity losses {listed(losses_with('margin', IDENTITY_LOSSES))}. It is an angle "
        "in radians for arcface, a cosine for the others.",
    )
    label_smoothing: Annotated[float, Rare()] = Field(
        default=0,
        ge=0,
        lt=1,
        description=f"Label smoothing of the identity loss {listed(losses_with('label_smoothing', IDENTITY_LOSSES))}.",
    )
    pair_loss: PairLossName = "none"
    """Loss between features, added to the identity loss. The features are those in the batches of all workers."""
    pair_weight: Annotated[float, Rare()] = Field(default=1, gt=0)
    """Weight of the pair loss relative to the identity loss."""
    pair_scale: Annotated[float, Rare()] = Field(
        default=16,
        gt=0,
        description=f"Scale of the cosines in the pair losses {listed(losses_with('scale', PAIR_LOSSES))}.",
    )
    pair_margin: Annotated[float, Rare()] = Field(
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

    @property
    def uses_clothes(self) -> bool:
        """Whether clothes labels are trained with."""
        return self.name == "cal" and self.clothes_loss

    @property
    def own(self) -> Options | None:
        """The settings of the method, where it has a section of its own."""
        return getattr(self, self.name, None)

    @property
    def title(self) -> str:
        """What reports call it."""
        return "baseline" if self.name == "cal" and not self.clothes_loss else METHODS[self.name].title


if not TYPE_CHECKING:  # with a section for each method that has options of its own
    MethodOptions = create_model(
        "MethodOptions",
        __base__=MethodOptions,
        __doc__=MethodOptions.__doc__,
        __module__=__name__,
        **{
            name: (row.options, Field(default=row.options(), description=f"Settings of {row.title}."))
            for name, row in METHODS.items()
            if row.options is not None
        },
    )


class TrainOptions(Options):
    """Epochs, validation, checkpoints and precision."""

    epochs: int = Field(default=150, ge=1)
    """Passes over the clips of the training identities."""
    first_stage: Annotated[str | None, Rare()] = None
    """Recipe to train first, by name or file, on the same data as run NAME-stage1. Its last weights are then
    model.weights. Default: none."""
    seed: int = Field(default=1, ge=0, lt=2**32)
    """Seed of weights, batches, clips and augmentation."""
    held_out_share: float = Field(default=0, ge=0, lt=1)
    """Share of training identities held out; 0: none. The best checkpoint is chosen on them."""
    validate_every: int = Field(default=10, ge=1)
    """Epochs between validations on held-out identities."""
    test_weights: Literal["best", "last"] = "last"
    """Weights to score the test set with. best: on the held-out identities."""
    checkpoint_every_epochs: Annotated[int, MayChange()] = Field(default=1, ge=1)
    """Epochs between checkpoints. The last epoch always has one."""
    checkpoint_share: Annotated[float, MayChange(), Rare()] = Field(default=0.02, gt=0, le=1)
    """Largest share of the training time that checkpoints may take. Where epochs are short, some have no checkpoint; 1:
    all have one."""
    checkpoint_every_steps: Annotated[int | None, MayChange(), Rare()] = Field(default=None, ge=1)
    """Steps between further checkpoints within an epoch, for long epochs. Default: no further checkpoints."""
    checkpoints_kept: Annotated[int, MayChange(), Rare()] = Field(default=2, ge=1)
    """Number of latest checkpoints to keep, besides the best on validation."""
    log_every_seconds: Annotated[float, MayChange(), Rare()] = Field(default=10, gt=0)
    """Seconds between progress lines."""
    bf16: AutoOrBool = False
    """Run the backbone in bfloat16 (autocast). auto: where that is faster than float32, measured before the start on
    the machines that train or embed; a resumed run and an embedding store keep what was found."""
    sync_batchnorm: Annotated[bool, Rare()] = False
    """Compute batch statistics over the clips of all workers."""
    compile: Annotated[bool, Rare()] = False
    """Compile the network with torch.compile. A network that is a list of blocks is compiled block by block."""
    batch_parts: Annotated[int, Rare()] = Field(default=1, ge=1)
    """Compute a worker's batch in this many parts, one after another, in the memory of one. The losses are those of the
    whole batch; only BatchNorm within the network sees the parts. It costs a second forward pass."""
    ema_decay: Annotated[float | None, Rare()] = Field(default=None, gt=0, lt=1)
    """Score with an exponential moving average of the weights, with this decay. Default: no average."""


class ProtocolOptions(Options):
    """A further retrieval protocol: which gallery entries of the query's person count as matches."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", max_length=60)
    """Its name in metrics.json."""
    agree: tuple[str, ...] = ()
    """What a match shares with the query: camera, clothes, or an attribute."""
    differ: tuple[str, ...] = ("camera",)
    """What differs between a match and the query."""
    within: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Use only queries and gallery entries with one of these labels: {camera: ["2", "3"]}."""


class ThresholdOptions(Options):
    """The score above which two tracklets are taken for the same person, and what it is worth."""

    far: Annotated[float, Rare()] = Field(default=0.01, gt=0, lt=1)
    """False-accept (false-match) rate of the recommended threshold. It is the share of pairs of different persons that
    are taken for the same person."""
    calibration: Annotated[Literal["logistic", "isotonic"], Rare()] = "logistic"
    """How scores become probabilities. isotonic is more flexible and needs more people."""
    prior: Annotated[float | None, Rare()] = Field(default=None, gt=0, lt=1)
    """Share of same-person pairs among the pairs to decide on, on which probabilities depend. Default: that of the
    scored queries and gallery."""
    draws: Annotated[int, Rare()] = Field(default=1000, ge=100, le=100_000)
    """Bootstrap draws over persons for each confidence interval."""


class ScoreOptions(Options):
    """How tracklets are embedded and scored."""

    clips_per_batch: Annotated[int | None, Rare()] = Field(default=None, ge=1)
    """Clips embedded at a time. Default: 16, on a GPU as many as fit into its memory, up to 256."""
    flip: bool = False
    """Add the feature of the mirrored clip."""
    protocols: Annotated[tuple[ProtocolOptions, ...], Rare()] = ()
    """Protocols besides the usual ones: [{name: ..., agree: [...], differ: [...], within: {...}}, ...]."""
    single_shot_draws: Annotated[int, Rare()] = Field(default=0, ge=0, le=1000)
    """Score also against galleries of one tracklet per person, drawn this many times (PRCC: 10); 0: do not."""
    threshold: ThresholdOptions = ThresholdOptions()
    """The recommended threshold, and probabilities."""
    post_processing: bool = False
    """Score with post-processing as well. It is re-ranking, query expansion, gallery centroids and camera means, each
    with its gain and cost."""
    report: bool = True
    """Write the report with pictures. It has tables with confidence intervals, charts and a filmstrip for every query;
    ranked pictures stand beside it. False: only numbers."""


class ReportOptions(Options):
    """What pages and pictures show of people."""

    mosaic: AutoOrBool = Field(
        default="auto",
        description="Make faces unrecognisable. auto: where report.mosaic_detector is given, and in pictures of data "
        f"sets whose licence asks for it, of {listed(row.title for row in RELEASED_SETS.values() if row.hide_faces)}.",
    )
    mosaic_detector: Annotated[Place | None, Rare()] = None
    """ONNX file, path or URI, that finds the heads or faces in a crop. It takes a uint8 RGB crop (1, 3, H, W) and gives
    float32 boxes (N, 4), left, top, right and bottom in pixels. Default: the upper third of each crop."""


class ComputeOptions(Options):
    """Workers and their resources."""

    workers: WorkerCount | None = None
    """Number of workers, or a range such as 2,8. With a range there are as many as there is room for, also while the
    run goes on; optim.learning_rate is that of the largest number, and scales down with it. Default: one per GPU, or
    without GPUs one per node."""
    use_gpu: bool | None = None
    """Run the workers on GPUs. Default: if there are any."""
    cpus_per_worker: int | None = Field(default=None, ge=1)
    """CPUs of each worker. Default: an equal share of the node's."""
    max_failures: Annotated[int, Rare()] = Field(default=3, ge=0)
    """How often workers may fail before the run fails; each time the run resumes from the last checkpoint."""
    resize_every_seconds: Annotated[float, Rare()] = Field(default=60, ge=1)
    """With a range of workers: seconds between checks for room for more. Each change resumes from the last
    checkpoint."""
    hang_seconds: Annotated[float, Rare()] = Field(default=900, ge=1)
    """Seconds without a finished step or an embedded batch after which a worker is taken to hang. It is ended, which
    counts as a failure."""
    decoders: Annotated[int, Rare()] = Field(default=0, ge=0, le=256)
    """Decoding actors for each worker, on nodes without GPUs where there are any; 0: workers decode themselves."""
    validators: Annotated[int, Rare()] = Field(default=0, ge=0, le=64)
    """Actors that score the held-out identities while the next epochs train, each with the CPUs and GPU of a worker.
    The best epoch is the same. 0: the workers score, and training waits."""


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
    report: Annotated[ReportOptions, MayChange()] = ReportOptions()
    compute: Annotated[ComputeOptions, MayChange()] = ComputeOptions()

    def with_bf16(self, bf16: bool) -> Recipe:
        """The recipe with its precision decided."""
        return self.model_copy(update={"train": self.train.model_copy(update={"bf16": bf16})})

    def within(self, cpus: int) -> Recipe:
        """The recipe for a worker with ``cpus`` CPUs: it has at most as many loader threads and processes."""
        loader = self.loader
        fitting = {"threads": min(loader.threads, cpus), "processes": min(loader.processes, cpus)}
        return self.model_copy(update={"loader": loader.model_copy(update=fitting)})

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.run.patience_seconds >= self.compute.hang_seconds:
            raise ValueError(
                "run.patience_seconds must be below compute.hang_seconds: a worker that waits for storage does not hang"
            )
        if self.compute.decoders and self.loader.processes:
            raise ValueError("compute.decoders replace loader.processes: set only one of them")
        if self.compute.validators and self.train.held_out_share == 0:
            raise ValueError(
                "compute.validators needs train.held_out_share above 0: they score the held-out identities"
            )
        if self.train.test_weights == "best" and self.train.held_out_share == 0:
            raise ValueError("train.test_weights 'best' needs train.held_out_share above 0")
        if not METHODS[self.method.name].labels and self.train.held_out_share:
            raise ValueError(
                f"method.name {self.method.name} learns without labels, so nothing can be held out to score: "
                "train.held_out_share must be 0"
            )
        if not METHODS[self.method.name].labels and self.batch.spread_outfits:
            raise ValueError(
                f"batch.spread_outfits needs clothes labels, which method.name {self.method.name} never reads"
            )
        if self.method.pair_loss != "none" and self.batch.clips == 1:
            raise ValueError("method.pair_loss needs batch.clips of 2 or more: it compares clips of the same person")
        if self.method.name == "csci" and not is_csci(self.model.backbone):
            raise ValueError(
                f"method.name csci needs model.backbone csci_plain/NAME, csci_image/NAME or csci_video/NAME, not "
                f"{self.model.backbone}"
            )
        if self.method.name == "csci" and self.model.backbone.startswith("csci_video/") and self.clip.length == 1:
            raise ValueError("csci_video/NAME needs clip.length of 2 or more: its motion loss compares frames")
        clips = self.batch.identities * self.batch.clips
        if self.train.batch_parts > clips:
            raise ValueError(f"train.batch_parts {self.train.batch_parts}: a worker's batch has only {clips} clips")
        data = self.data
        own_sources = {"synthetic": data.synthetic, "footage": data.footage, "clips": data.clips}
        if own_sources.get(data.kind, data.root) is None and data.shards is None:
            flag = {"footage": "footage.videos", "clips": "clips.folder"}.get(data.kind, "root")
            raise ValueError(
                f"data.kind {data.kind!r} needs its sources (--data.{flag}) or finished shards (--data.shards)"
            )
        return self
