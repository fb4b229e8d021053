"""The training loop: written once, run by one process or by every worker of a cluster."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

import torch

from ccvid.config import Recipe
from ccvid.method_choices import METHODS
from ccvid.precision import WORTH_IT, bf16_speed
from ccvid.retrieval.embedding.clip_embedder import ClipEmbedder
from ccvid.run_files import BEST_FOLDER, WEIGHTS_FILE
from ccvid.trained_model import write_description
from ccvid.training.build import build_training
from ccvid.training.checkpoint import (
    Progress,
    is_finite,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_parts,
)
from ccvid.training.context import RunContext
from ccvid.training.distributed import Agreement, agree, broadcast_state, gather
from ccvid.training.held_out import HeldOut, HeldOutScores, evaluate_held_out
from ccvid.training.passes import BatchUpdate, FoundClasses, TrainingPass
from ccvid.training.schedules import learning_rate
from ccvid.training.shared_embedding import embed_together
from ccvid.training.split import split_for
from ccvid.training.step_log import TRAINING, NonFiniteLossError, StepLog, log_event
from ccvid.training.stopping import EndedOnRequestError
from ccvid.training.validation import Validation
from data_tools.errors import InputError
from data_tools.identity_sampler import PkSampler, Schedule
from data_tools.loader import ClipBatch, ClipLoader, Integers, TrainingClips
from data_tools.progress import message, note_kept, state
from data_tools.shards import ShardFolder


@dataclass(slots=True)
class LoadedPass:
    """One pass over the training items of each epoch."""

    loader: ClipLoader
    update: BatchUpdate


class Trainer:
    """Trains one recipe on one rank; ``fit`` resumes from the run's last checkpoint.

    ``model`` is trained; ``scored_model`` computes the embeddings: the moving average with ``train.ema_decay``, else
    the model itself. To score the weights without averaging, set ``scored_model`` to ``model``.

    Raises:
        InputError: the data do not fit the recipe (labels, identities, sizes); nothing has started yet.
    """

    def __init__(self, recipe: Recipe, store: ShardFolder, run: RunContext) -> None:
        self.recipe = recipe = self._with_precision(recipe, run)
        self.store, self.run = store, run
        self.split = split_for(recipe, store)
        self.sampler = self._sampler_of(self.split.items.person_I)
        if self.sampler.steps_per_epoch == 0:
            raise InputError(
                f"an epoch has no complete batch: {len(self.split.items)} training items for {run.world_size} workers "
                f"with {recipe.batch.identities} identities x {recipe.batch.clips} clips each; lower batch.identities "
                "or batch.clips"
            )
        training = build_training(recipe, self.split, run)
        self.parts = training.parts
        self.model, self.scored_model = self.parts.model, self.parts.scored_model
        self.found = training.found
        self.passes = [LoadedPass(self._loader(each), each.update) for each in training.passes]
        self.progress = Progress()
        self.agreement = Agreement(run.world_size)
        self.validation = self._validation()
        self._problem: str | None = None
        self._ending = False
        self._saved = self._save_seconds = 0.0
        self._steps_before = 0

    def fit(self) -> None:
        """Train the rest of the run.

        Raises:
            StoppedTogetherError: a rank cannot continue.
            EndedOnRequestError: the run was asked to end.
        """
        epochs, steps = self.recipe.train.epochs, self.steps_per_epoch
        updates_unscored = None
        with self.run.latest_checkpoint() as folder:
            if folder is not None:
                self.progress = load_checkpoint(folder, self.parts)
                updates_unscored = self.validation.resume(folder, self.progress.unscored)
        self.progress = self.progress.in_epochs_of(steps)
        done = self.progress.epoch * steps + self.progress.step
        # If the number of workers changed, the steps done are more or fewer than the same epochs would have now.
        self._steps_before = self.progress.updates - done
        batch = self.recipe.batch
        self.log = StepLog(
            self.run.folder if self.run.rank == 0 else None,
            first_step=self.progress.updates,
            first_unscored=None if updates_unscored is None else updates_unscored - 1,
            total_steps=self._steps_before + epochs * steps,
            clips_per_step=batch.identities * batch.clips * self.run.world_size,
            sinks=self.run.sinks,
        )
        self._log_event("resumed" if self.progress.updates else "started")
        self._show_start()
        try:
            for epoch in range(self.progress.epoch, epochs):
                self._train_epoch(epoch)
                self._finish_epoch(epoch)
        finally:
            self.run.rest()
            self.log.close()
            self.validation.close()
            for each in self.passes:
                each.loader.close()

    def _validation(self) -> Validation:
        recipe, run, rows = self.recipe, self.run, self.split.held_out_rows
        held_out = HeldOut(self.parts.scored_model, recipe, rows, run.world_size)
        validators = run.validators(held_out) if rows else None
        return Validation(
            recipe.train,
            run,
            self.agreement,
            held_out.model,
            score=self.score_held_out,
            write=self._write_scored,
            validators=validators,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Of all passes together."""
        return len(self.passes) * self.sampler.steps_per_epoch

    def _sampler_of(self, class_I: Integers) -> PkSampler:
        """Batches of items of these classes; where classes change, with as many steps as there are items for."""
        recipe, world_size = self.recipe, self.run.world_size
        clips = recipe.batch.identities * recipe.batch.clips * world_size
        steps = None if METHODS[recipe.method.name].labels else len(class_I) // clips
        clothes_I = self.split.items.clothes_I
        return PkSampler(
            class_I, recipe.batch, world_size=world_size, seed=recipe.train.seed, clothes_I=clothes_I, steps=steps
        )

    def _loader(self, each: TrainingPass) -> ClipLoader:
        recipe, run = self.recipe, self.run
        frame_size = (recipe.model.height, recipe.model.width)
        clips = TrainingClips(self.store, self.split.items, each.clip, each.augment, frame_size, each.resize_filter)
        return ClipLoader(clips, recipe.loader, pin_memory=run.device.type == "cuda", decoders=run.decoders(clips))

    @staticmethod
    def _with_precision(recipe: Recipe, run: RunContext) -> Recipe:
        """Resolve ``train.bf16: auto``, if still open, by rank 0's device."""
        if recipe.train.bf16 != "auto":
            return recipe
        faster = bf16_speed(recipe.model, recipe.clip, run.device) >= WORTH_IT
        return recipe.with_bf16(agree(faster, run.device, run.world_size) > 0)

    def load_best(self) -> None:
        """Load the weights that scored best on the held-out identities into the scored model."""
        if self.run.rank == 0:
            load_weights(self.scored_model, self.run.folder / BEST_FOLDER / WEIGHTS_FILE)
        broadcast_state(self.scored_model, self.run.world_size)

    def embed(
        self, rows: Sequence[int], *, within: str = "", embedder: ClipEmbedder | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (rows, D) and clip counts (rows,) of stored tracklets, shared among the ranks.

        Args:
            embedder: what embeds, with the scored model; default: that model.
        """
        return embed_together(
            self.scored_model, self.store, rows, self.recipe, self.run, self.agreement, within=within, embedder=embedder
        )

    def score_held_out(self) -> HeldOutScores | None:
        """Score each tracklet of the held-out identities against all others; None on ranks other than 0."""
        rows = self.split.held_out_rows
        embedded = self.embed(rows, within=TRAINING)
        if self.run.rank != 0:
            return None
        return HeldOutScores.of(evaluate_held_out(self.store, rows, *embedded))

    def _train_epoch(self, epoch: int) -> None:
        train = self.recipe.train
        if self.found is not None:
            self._deal_anew(self.found, epoch)
        self.model.train()
        with closing(self._batches(epoch)) as batches:
            for step, batch, update in batches:
                self.run.alive()
                batch = batch.to(self.run.device, non_blocking=True)
                number = epoch * self.steps_per_epoch + step
                rate = self._set_learning_rate(epoch + step / self.steps_per_epoch)
                # A step's random draws (dropout) depend on its position alone, so that a resumed run draws the same.
                torch.manual_seed((train.seed << 32) + number * self.run.world_size + self.run.rank)
                result = update(batch, epoch)
                if self.parts.average is not None:
                    self.parts.average.update_parameters(self.model)
                self.log.add(self._steps_before + number, rate, result, self._place(epoch, step + 1))
                if self.log.seconds_since_flush >= train.log_every_seconds:
                    self._problem = self._flush_log(epoch, step + 1)
                self.progress = replace(self.progress, epoch=epoch, step=step + 1, updates=self.progress.updates + 1)
                turn = train.checkpoint_every_steps and (step + 1) % train.checkpoint_every_steps == 0
                if turn and step + 1 < self.steps_per_epoch:
                    self.agreement.stop_if_any(self._flush_log(epoch, step + 1))
                    self._save({"epoch": epoch, "step": step + 1})
        if self._ending:
            self._end(epoch)

    def _deal_anew(self, found: FoundClasses, epoch: int) -> None:
        """Deal the epoch's batches by the classes in force, which are renewed before if that is due."""
        if self.progress.step == 0 and found.due(epoch):
            embedding_ND, _ = self.embed(list(found.rows), within=TRAINING, embedder=found.embedder)
            class_N = problem = None
            if self.run.rank == 0:
                try:
                    class_N = found.find(embedding_ND, epoch)
                except InputError as error:
                    problem = f"epoch {epoch + 1}: {error}"
            self.agreement.stop_if_any(problem)
            shared = gather(class_N, self.run.world_size)[0]
            assert shared is not None, "rank 0 has found classes"
            found.renew(shared, embedding_ND)
            self.run.alive()
        self.sampler = self._sampler_of(found.class_of(self.split.items.person_I))

    def _batches(self, epoch: int) -> Generator[tuple[int, ClipBatch, BatchUpdate]]:
        """The rest of the epoch: each step's place in it, its batch and its update; until the run is asked to end."""
        start, steps = self.progress.step, self.sampler.steps_per_epoch
        for number, each in enumerate(self.passes):
            first = max(start - number * steps, 0)
            if first >= steps or self._ending:
                continue
            with closing(self._batches_of(each.loader, self._schedule(epoch, number), first)) as batches:
                for step, batch in enumerate(batches, start=number * steps + first):
                    yield step, batch, each.update

    def _schedule(self, epoch: int, number: int) -> Schedule:
        """That of one of the epoch's passes."""
        return self.sampler.schedule(epoch * len(self.passes) + number, self.run.rank)

    def _batches_of(self, loader: ClipLoader, schedule: Schedule, first_step: int) -> Generator[ClipBatch]:
        """The loader's batches, until the run is asked to end.

        A problem on any rank, in its loader or its losses, stops all ranks before the next step.
        """
        with closing(loader.batches(schedule, first_step)) as batches:
            while True:
                batch, problem = None, self._problem
                try:
                    batch = next(batches, None)
                except InputError as error:
                    problem = problem or str(error)
                self._ending = self.agreement.stop_if_any(problem, end=self.run.stop_requested())
                if batch is None or self._ending:
                    return
                yield batch

    def _end(self, epoch: int) -> None:
        """Save a last checkpoint and raise."""
        step = self.progress.step
        self.agreement.stop_if_any(self._flush_log(epoch, step))
        self._save({"epoch": epoch, "step": step}, wait=True)
        text = f"stopped on request in epoch {epoch + 1} after step {step}, with a checkpoint"
        if self.run.rank == 0:
            message(text, transient=True)  # from here, because the driver may not have time to
        raise EndedOnRequestError(text)

    def _finish_epoch(self, epoch: int) -> None:
        train, done = self.recipe.train, epoch + 1
        self.agreement.stop_if_any(self._flush_log(epoch, self.steps_per_epoch))
        self.progress = replace(self.progress, epoch=done, step=0)
        best_before = self.progress.best_epoch
        self.progress, metrics = self.validation.end_epoch(self.progress, self.log)
        is_new_best = self.progress.best_epoch != best_before
        turn = done % train.checkpoint_every_epochs == 0
        if is_new_best or done == train.epochs or (turn and self._time_for_checkpoint()):
            self._save(metrics)
        elif "held_out_score" in metrics:
            self.run.report(metrics, None)
        self.log.pause()

    def _time_for_checkpoint(self) -> bool:
        """Whether a checkpoint now keeps within ``checkpoint_share``, by rank 0's clock; it affects no result."""
        due = time.monotonic() - self._saved >= self._save_seconds / self.recipe.train.checkpoint_share
        return agree(due, self.run.device, self.run.world_size) > 0

    def _save(self, metrics: dict[str, float], *, wait: bool = False) -> None:
        """Save a checkpoint and report it with ``metrics``."""
        began = time.monotonic()
        folder = None
        self._refuse_divergence()
        if self.run.rank == 0:
            folder = Path(mkdtemp(prefix="checkpoint-", dir=self.run.scratch))
            save_checkpoint(folder, self.parts, self.progress)
            self._write_description(folder)
            self.validation.save(folder, self.progress.unscored)
            self.run.publish()
        self.run.report(metrics, folder, wait=wait)
        self._log_event("checkpoint")
        self._saved = time.monotonic()
        self._save_seconds = self._saved - began

    def _write_scored(self, folder: Path) -> None:
        """Write the present weights without the optimizers into an empty folder; every rank must call it."""
        self._refuse_divergence()
        if self.run.rank == 0:
            save_parts(folder, self.parts, self.progress)
            self._write_description(folder)

    def _refuse_divergence(self) -> None:
        problem = None
        if self.run.rank == 0 and not is_finite(self.model):
            problem = (
                f"epoch {self.progress.epoch + 1}, step {self.progress.step}: weights are not finite and not saved; "
                "training has diverged. Start a new run with a lower --optim.learning_rate"
            )
        self.agreement.stop_if_any(problem)

    def _write_description(self, folder: Path) -> None:
        recipe, split = self.recipe, self.split
        clothes = len(split.clothes) if recipe.method.uses_clothes else 0
        persons = len(split.persons) if self.found is None else 0
        write_description(folder, recipe.model, recipe.clip, persons=persons, clothes=clothes)

    def _show_start(self) -> None:
        if self.run.rank != 0:
            return
        resumed = ""
        if self.progress.updates:
            place = f"epoch {self.progress.epoch + 1}, step {self.progress.step}"
            note_kept("checkpoint", f"a checkpoint of {place}")
            resumed = f", resumed from {place}"
        workers = "1 worker" if self.run.world_size == 1 else f"{self.run.world_size} workers"
        state(f"training on {workers}{resumed}", lasting=True)

    def _log_event(self, event: str) -> None:
        log_event(event, epoch=self.progress.epoch, step=self.progress.updates, world_size=self.run.world_size)

    def _set_learning_rate(self, epoch: float) -> float:
        """Set the rate of every group for this moment, in epochs; return that of the network's usual parameters."""
        optim, workers, epochs = self.recipe.optim, self.recipe.compute.workers, self.recipe.train.epochs
        # With a range of workers the recipe's learning rate is for the largest number.
        share = self.run.world_size / workers[1] if isinstance(workers, tuple) else 1.0
        for optimizer in self.parts.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(optim, share * group["peak_lr"], epoch, epochs)
        return learning_rate(optim, share * optim.learning_rate, epoch, epochs)

    def _flush_log(self, epoch: int, step: int) -> str | None:
        """Write and show the pending steps; return the problem with them, if any."""
        try:
            waited = sum(each.loader.wait_seconds for each in self.passes)
            self.log.flush(self._place(epoch, step), waited, epoch=epoch + step / self.steps_per_epoch)
        except NonFiniteLossError as error:
            return self._breakdown(error)
        return None

    def _place(self, epoch: int, step: int) -> str:
        return f"epoch {epoch + 1}/{self.recipe.train.epochs} step {step}/{self.steps_per_epoch}"

    def _breakdown(self, error: NonFiniteLossError) -> str:
        epoch, step = divmod(error.step - self._steps_before, self.steps_per_epoch)
        number, place = divmod(step, self.sampler.steps_per_epoch)
        items = self._schedule(epoch, number).item_SB[place]
        tracklets = sorted(set(self.store.rows.take(self.split.items.row_I[items]).values("id")))
        return (
            f"epoch {epoch + 1}, step {step + 1}: {' and '.join(error.names)} not finite; training has diverged. "
            f"Tracklets in the batch: {', '.join(tracklets)}. Start a new run with a lower --optim.learning_rate, with "
            "--optim.clip_norm, or without --train.bf16"
        )
