"""The training loop: written once, run by one process or by every worker of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree
from tempfile import mkdtemp

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from ccvid.config import OptimOptions, Recipe
from ccvid.model import CosineClassifier, IdentityClassifier, ReIdModel
from ccvid.retrieval.embed import embed_tracklets
from ccvid.retrieval.metrics import Evaluation
from ccvid.retrieval.scoring import score_embeddings, single_score
from ccvid.training.checkpoint import Progress, TrainedParts, load_checkpoint, load_weights, save_checkpoint
from ccvid.training.context import RunContext
from ccvid.training.distributed import agree, broadcast_state, gather_rows, wrap
from ccvid.training.schedules import learning_rate_factor
from ccvid.training.split import split_training
from ccvid.training.step_log import EmbeddingProgress, StepLog
from ccvid.training.update import CalUpdate, ClothesHead
from data_tools.clips import all_clips
from data_tools.errors import InputError
from data_tools.identity_sampler import PkSampler
from data_tools.loader import ClipLoader, TrainingClips
from data_tools.shards import ShardFolder
from data_tools.transforms import normalise
from video_backbones import build_backbone

BEST_FOLDER = "best"


class Trainer:
    """Trains one recipe on one rank; ``fit`` goes on from the run's last checkpoint.

    Raises:
        InputError: the data do not suit the recipe (labels, identities, sizes), before anything starts.
    """

    def __init__(self, recipe: Recipe, store: ShardFolder, run: RunContext) -> None:
        self.recipe, self.store, self.run = recipe, store, run
        method, train = recipe.method, recipe.train
        self.split = split_training(store, train, piece=recipe.clip.piece, needs_clothes=method.clothes_loss)
        self.sampler = PkSampler(self.split.items.person_I, recipe.batch, world_size=run.world_size, seed=train.seed)
        if self.sampler.steps_per_epoch == 0:
            raise InputError(
                f"an epoch has no whole batch: {len(self.split.items)} training items for {run.world_size} workers "
                f"of {recipe.batch.identities} x {recipe.batch.clips} clips; lower batch.identities or batch.clips"
            )
        self.model = self._build_model()
        self.parts, self.update = self._build_update()
        clips = TrainingClips(
            store, self.split.items, recipe.clip, recipe.augment, (recipe.model.height, recipe.model.width)
        )
        self.loader = ClipLoader(clips, recipe.loader, pin_memory=run.device.type == "cuda")
        self.progress = Progress()

    def fit(self) -> None:
        """Train what is left of the run."""
        with self.run.latest_checkpoint() as folder:
            if folder is not None:
                self.progress = load_checkpoint(folder, self.parts)
        epochs, steps = self.recipe.train.epochs, self.sampler.steps_per_epoch
        batch = self.recipe.batch
        self.log = StepLog(
            self.run.folder if self.run.rank == 0 else None,
            first_step=self.progress.epoch * steps + self.progress.step,
            total_steps=epochs * steps,
            clips_per_step=batch.identities * batch.clips * self.run.world_size,
        )
        try:
            for epoch in range(self.progress.epoch, epochs):
                self._train_epoch(epoch)
                self._finish_epoch(epoch)
        finally:
            self.log.close()
            self.loader.close()

    def load_best(self) -> None:
        """Put the best weights on the held-out identities into the model."""
        if self.run.rank == 0:
            load_weights(self.model, self.run.folder / BEST_FOLDER / "model.safetensors")
        broadcast_state(self.model, self.run.world_size)

    def embed(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (rows, D) and clip counts (rows,) of stored tracklets, shared among the ranks."""
        broadcast_state(self.model, self.run.world_size)
        own = rows[self.run.rank :: self.run.world_size]
        clips = sum(len(all_clips(self.store.rows[row].frame_count, self.recipe.clip)) for row in own)
        progress = EmbeddingProgress(clips, self.recipe.train.log_every_seconds) if self.run.rank == 0 else None
        embedding, count = embed_tracklets(
            self.model,
            self.store,
            own,
            clip=self.recipe.clip,
            options=self.recipe.model,
            loader=self.recipe.loader,
            clips_per_batch=self.recipe.train.test_clips_per_batch,
            progress=progress,
        )
        return (
            gather_rows(embedding, len(rows), self.run.world_size),
            gather_rows(count, len(rows), self.run.world_size),
        )

    def score_held_out(self) -> Evaluation | None:
        """Score each tracklet of the held-out identities against all others; None on ranks other than 0."""
        rows = list(self.split.held_out_rows)
        embedding, _ = self.embed(rows)
        if self.run.rank != 0:
            return None
        return score_embeddings(self.store, torch.cat([embedding, embedding]), rows, rows)

    def _build_model(self) -> ReIdModel:
        options, train, device = self.recipe.model, self.recipe.train, self.run.device
        torch.manual_seed(train.seed)
        backbone = build_backbone(options.backbone, weights=options.weights, last_stride=options.last_stride)
        model = ReIdModel(
            backbone,
            IdentityClassifier(backbone.feature_size, len(self.split.persons)),
            autocast_dtype=torch.bfloat16 if train.bf16 else None,
        )
        if train.sync_batchnorm and self.run.world_size > 1:
            if device.type != "cuda":
                raise InputError("train.sync_batchnorm needs GPUs: torch has no SyncBatchNorm for CPUs")
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return model.to(device)

    def _build_update(self) -> tuple[TrainedParts, CalUpdate]:
        method, optim, device = self.recipe.method, self.recipe.optim, self.run.device
        trained = wrap(self.model, device, self.run.world_size)
        optimizer = _optimizer(optim, optim.learning_rate, self.model.parameters())
        classifier = clothes_optimizer = head = None
        if method.clothes_loss:
            classifier = CosineClassifier(self.model.backbone.feature_size, len(self.split.clothes)).to(device)
            rate = optim.clothes_learning_rate or optim.learning_rate
            clothes_optimizer = _optimizer(optim, rate, classifier.parameters())
            head = ClothesHead(
                wrap(classifier, device, self.run.world_size),
                clothes_optimizer,
                torch.from_numpy(self.split.owner_N).to(device),
                scale=method.scale,
                epsilon=method.epsilon,
            )
        if self.recipe.train.compile:
            trained.compile()
        update = CalUpdate(
            trained,
            optimizer,
            head,
            adversarial_weight=method.weight,
            label_smoothing=method.label_smoothing,
            clip_norm=optim.clip_norm,
        )
        return TrainedParts(self.model, optimizer, classifier, clothes_optimizer), update

    def _train_epoch(self, epoch: int) -> None:
        train, first = self.recipe.train, self.progress.step
        steps = self.sampler.steps_per_epoch
        cal = epoch >= self.recipe.method.start_epoch
        self.model.train()
        schedule = self.sampler.schedule(epoch, self.run.rank)
        for step, batch in enumerate(self.loader.batches(schedule, first), start=first):
            batch = batch.to(self.run.device, non_blocking=True)
            factor = learning_rate_factor(self.recipe.optim, epoch + step / steps, train.epochs)
            rate = self._set_learning_rate(factor)
            # Whatever a step draws (dropout) depends on its place alone, so that a resumed run draws the same.
            torch.manual_seed((train.seed << 32) + (epoch * steps + step) * self.run.world_size + self.run.rank)
            result = self.update(
                normalise(batch.frames_BTCHW),
                batch.person_B,
                batch.clothes_B,
                train_clothes=cal,
                adversarial=cal,
            )
            self.log.add(epoch * steps + step, rate, result)
            if self.log.seconds_since_flush >= train.log_every_seconds:
                self._flush_log(epoch, step + 1)
            self.progress = replace(self.progress, epoch=epoch, step=step + 1)
            if train.checkpoint_every_steps and (step + 1) % train.checkpoint_every_steps == 0 and step + 1 < steps:
                self._report({"epoch": epoch, "step": step + 1})

    def _finish_epoch(self, epoch: int) -> None:
        train, done = self.recipe.train, epoch + 1
        self._flush_log(epoch, self.sampler.steps_per_epoch)
        self.progress = replace(self.progress, epoch=done, step=0)
        metrics: dict[str, float] = {"epoch": done}
        is_best = False
        if self.split.held_out_rows and (done % train.validate_every == 0 or done == train.epochs):
            score = self._validate(done)
            metrics["held_out_score"] = score
            if is_best := score > self.progress.best_score:
                self.progress = replace(self.progress, best_score=score, best_epoch=done)
        if is_best or done % train.checkpoint_every_epochs == 0 or done == train.epochs:
            self._report(metrics, is_best=is_best)
        self.log.pause()

    def _validate(self, done: int) -> float:
        """Score, tell of it, and let all ranks know the single score."""
        evaluation = self.score_held_out()
        score = 0.0
        if evaluation is not None:
            score = single_score(evaluation)
            scores = {f"{name}_map": result.mean_average_precision for name, result in evaluation.results.items()}
            self.log.add_validation(done * self.sampler.steps_per_epoch - 1, scores)
            shown = "  ".join(f"{name.removesuffix('_map')} {value:.1%}" for name, value in scores.items())
            print(f"epoch {done}: mAP on {len(evaluation.query)} held-out tracklets: {shown}", flush=True)
        return agree(score, self.run.device, self.run.world_size)

    def _report(self, metrics: dict[str, float], *, is_best: bool = False) -> None:
        folder = None
        if self.run.rank == 0:
            folder = Path(mkdtemp(prefix="checkpoint-", dir=self.run.scratch))
            save_checkpoint(folder, self.parts, self.progress)
            if is_best:
                self._keep_best(folder)
        self.run.report({**metrics, "best_score": self.progress.best_score}, folder)

    def _keep_best(self, checkpoint: Path) -> None:
        best = self.run.folder / BEST_FOLDER
        fresh = best.with_name(f".{BEST_FOLDER}.new")
        rmtree(fresh, ignore_errors=True)
        copytree(checkpoint, fresh, ignore=lambda _, names: [name for name in names if name == "trainer.pt"])
        rmtree(best, ignore_errors=True)
        fresh.rename(best)

    def _set_learning_rate(self, factor: float) -> float:
        optim = self.recipe.optim
        rates = {self.parts.optimizer: optim.learning_rate * factor}
        if self.parts.clothes_optimizer is not None:
            rates[self.parts.clothes_optimizer] = (optim.clothes_learning_rate or optim.learning_rate) * factor
        for optimizer, rate in rates.items():
            for group in optimizer.param_groups:
                group["lr"] = rate
        return rates[self.parts.optimizer]

    def _flush_log(self, epoch: int, step: int) -> None:
        place = f"epoch {epoch + 1}/{self.recipe.train.epochs} step {step}/{self.sampler.steps_per_epoch}"
        self.log.flush(place, self.loader.wait_seconds)


def _optimizer(options: OptimOptions, learning_rate: float, parameters: Iterable[nn.Parameter]) -> Optimizer:
    decay = options.weight_decay
    make: dict[str, Callable[[], Optimizer]] = {
        "adam": lambda: Adam(parameters, learning_rate, weight_decay=decay),
        "adamw": lambda: AdamW(parameters, learning_rate, weight_decay=decay),
        "sgd": lambda: SGD(parameters, learning_rate, momentum=options.momentum, weight_decay=decay),
    }
    return make[options.name]()
