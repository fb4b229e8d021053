"""CSCI as a recipe chooses it: which of its three networks, and the passes of an epoch."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ccvid.colour_targets import ColourTarget
from ccvid.config import Recipe
from ccvid.csci_options import CsciOptions
from ccvid.model import IdentityClassifier
from ccvid.run_files import CSCI_FILE
from ccvid.trained_model import local_weights
from ccvid.training.build import average_of, build_model, compile_network
from ccvid.training.checkpoint import TrainedParts
from ccvid.training.context import RunContext
from ccvid.training.csci_model import CsciHeads, CsciModel, new_classifier
from ccvid.training.csci_update import CsciUpdate
from ccvid.training.distributed import wrap
from ccvid.training.optimizers import build_optimizer
from ccvid.training.other_clothes import in_other_clothes
from ccvid.training.passes import Training, TrainingPass
from ccvid.training.split import TrainingSplit
from ccvid.training.update_result import UpdateResult
from data_tools.clips import ClipOptions
from data_tools.loader import ClipBatch
from data_tools.transforms import normalise
from video_backbones import published_kinds
from video_backbones.csci.networks import CsciImage, CsciNetwork, CsciPlain, CsciVideo
from video_backbones.weights import named_tensors, read_checkpoint

PICTURE = ClipOptions(length=1, stride=1)


def build_csci_training(recipe: Recipe, split: TrainingSplit, run: RunContext) -> Training:
    """Passes by the network: clips of a plain one, pictures of an image one, or pictures, then clips of a video one."""
    options = _options(recipe)
    parts, update = build_csci(recipe, split, run)
    colours = ColourTarget(**options.colours.model_dump())

    def of_pictures(batch: ClipBatch, epoch: int) -> UpdateResult:  # noqa: ARG001
        pictures_BCHW = in_other_clothes(batch.frames_BTCHW, options.other_clothes).flatten(0, 1)
        persons = batch.person_B.repeat_interleave(batch.frames_BTCHW.shape[1])
        return update.pictures(normalise(pictures_BCHW), colours(pictures_BCHW), persons)

    def of_clips(batch: ClipBatch, epoch: int) -> UpdateResult:  # noqa: ARG001
        step = update.plain if isinstance(parts.model.backbone, CsciPlain) else update.clips
        frames_BTCHW = in_other_clothes(batch.frames_BTCHW, options.other_clothes)
        return step(normalise(frames_BTCHW), batch.person_B)

    if isinstance(parts.model.backbone, CsciImage):
        return Training(parts, (TrainingPass.of(recipe, of_pictures),))
    clips = TrainingPass.of(recipe, of_clips)
    if isinstance(parts.model.backbone, CsciPlain):
        return Training(parts, (clips,))
    pictures = TrainingPass(
        clip=PICTURE, augment=options.picture_augment, resize_filter=options.picture_filter, update=of_pictures
    )
    return Training(parts, (pictures, clips))


def build_csci(recipe: Recipe, split: TrainingSplit, run: RunContext) -> tuple[TrainedParts, CsciUpdate]:
    """The parts that CSCI trains, on the run's device, and the update that trains them."""
    options, persons, optim = _options(recipe), len(split.persons), recipe.optim
    model = build_model(recipe, persons, run)
    backbone = model.backbone
    assert isinstance(backbone, CsciNetwork), f"{recipe.model.backbone}, which the recipe should have refused"
    model.identity_classifier = _started(new_classifier(backbone.feature_size, persons), recipe.model.weights)
    model.to(run.device)
    average = average_of(model, recipe.train)
    heads = None
    if not isinstance(backbone, CsciPlain):
        own = persons if isinstance(backbone, CsciVideo) else None
        heads = CsciHeads(backbone.feature_size, options.colours.size, own).to(run.device)
    whole = CsciModel(model, heads)
    trained = wrap(whole, run.device, run.world_size, partly_used=isinstance(backbone, CsciVideo))
    optimizer = build_optimizer(optim, optim.learning_rate, whole)
    if recipe.train.compile:
        compile_network(trained, model.backbone)
    update = CsciUpdate(trained, optimizer, options, world_size=run.world_size, clip_norm=optim.clip_norm)
    files: dict[str, nn.Module] = {} if heads is None else {CSCI_FILE: heads}
    return TrainedParts(model, {"model": optimizer}, files, average), update


def _options(recipe: Recipe) -> CsciOptions:
    options = recipe.method.own
    assert isinstance(options, CsciOptions)
    return options


def _started(classifier: IdentityClassifier, weights: str) -> IdentityClassifier:
    """The classifier with the weights of the file that the network starts from, if that tells as many persons apart."""
    if weights in ("random", *published_kinds()):
        return classifier
    content = read_checkpoint(Path(local_weights(weights)))
    state = named_tensors(content.get("model_state_dict", content), weights)
    own = classifier.state_dict()
    for prefix in ("identity_classifier.classifier.", "head."):
        found = {name: state.get(prefix + name.removeprefix("classifier.")) for name in own}
        if all(value is not None and value.shape == own[name].shape for name, value in found.items()):
            classifier.load_state_dict(found)
    return classifier
