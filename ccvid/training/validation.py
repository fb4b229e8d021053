"""When the held-out identities are scored: at once by the training workers, or beside training by validators.

    end of epoch N ──its weights are kept──▶ Validators: score them while the next epochs train
    end of a later epoch ◀──scores, counted in the order of epochs──┘

Either way the best epoch is the same. A checkpoint holds the weights whose scores are still to come, so that a resumed
run has them scored again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree

from ccvid.config import TrainOptions
from ccvid.model import ReIdModel
from ccvid.run_files import BEST_FOLDER, UNSCORED_FOLDER, WEIGHTS_FILE
from ccvid.training.checkpoint import Progress, load_weights, read_progress, read_weights, write_progress
from ccvid.training.context import RunContext, Validators
from ccvid.training.distributed import Agreement, agree
from ccvid.training.held_out import HeldOutScores
from ccvid.training.step_log import StepLog, log_event
from data_tools.errors import InputError
from data_tools.progress import message, state

POLL_SECONDS = 1.0
"""How long rank 0 waits for a validator before it tells the other ranks that it still waits."""
MOST_UNSCORED = 2
"""Epochs for each validator whose scores may be outstanding: one that it scores, and one that is next."""


class Validation:
    """The held-out scores of a run, and its best epoch. Every rank calls everything; files and scores are rank 0's.

    Args:
        model: what is scored.
        score: scores its present weights on all ranks together; gives None on ranks other than 0.
        write: writes these weights into an empty folder, as in a checkpoint; every rank calls it.
        validators: rank 0's, if any.
    """

    def __init__(
        self,
        train: TrainOptions,
        run: RunContext,
        agreement: Agreement,
        model: ReIdModel,
        *,
        score: Callable[[], HeldOutScores | None],
        write: Callable[[Path], None],
        validators: Validators | None,
    ) -> None:
        self._train, self._run, self._agreement, self._model = train, run, agreement, model
        self._score, self._write, self._validators = score, write, validators
        self._number = int(self._agreed(0 if validators is None else validators.number))
        self._folder = run.scratch / UNSCORED_FOLDER
        if run.rank == 0:
            rmtree(self._folder, ignore_errors=True)

    def end_epoch(self, progress: Progress, log: StepLog) -> tuple[Progress, dict[str, float]]:
        """Have the epoch that has just ended scored, if it is its turn, and count the scores that are in.

        Returns:
            The progress with best epoch and unscored epochs, and what to report of this epoch; what there is to report
            of earlier epochs has been reported.
        """
        done, last = progress.epoch, progress.epoch == self._train.epochs
        here = None
        if self._train.held_out_share and (last or done % self._train.validate_every == 0):
            self._keep(done)
            progress = replace(progress, unscored=(*progress.unscored, done))
            if last or not self._number:  # after the last epoch the workers have nothing else to do
                here = done
            else:
                self._submit(done)
        metrics: dict[str, float] = {"epoch": done}
        for epoch, scores in self._finished(progress.unscored, here):
            progress, found = self._count(progress, epoch, scores, log)
            if epoch == done:
                metrics = found
            else:
                self._run.report(found, None)
        self._run.alive()
        return progress, metrics

    def save(self, checkpoint: Path, epochs: Sequence[int]) -> None:
        """Copy the weights of unscored epochs into a checkpoint, on rank 0."""
        for epoch in epochs:
            copytree(self._kept(epoch), checkpoint / UNSCORED_FOLDER / self._kept(epoch).name)

    def resume(self, checkpoint: Path, epochs: Sequence[int]) -> int | None:
        """Have the weights scored that :meth:`save` put there.

        Returns:
            The updates done at the end of the first of these epochs; None if there is none, and on ranks other than 0.

        Raises:
            StoppedTogetherError: they are missing or damaged.
        """
        problem = first = None
        if epochs and self._run.rank == 0:
            try:
                copytree(checkpoint / UNSCORED_FOLDER, self._folder)
                for epoch in epochs:
                    read_weights(self._model, self._kept(epoch) / WEIGHTS_FILE)
                first = min(read_progress(self._kept(epoch)).updates for epoch in epochs)
            except (OSError, InputError) as error:
                problem = f"{checkpoint}: the weights of epochs that are still to be scored cannot be read: {error}"
        self._agreement.stop_if_any(problem)
        for epoch in epochs:
            self._submit(epoch)
        return first

    def close(self) -> None:
        """Stop the validators."""
        if self._validators is not None:
            self._validators.close()

    def _kept(self, epoch: int) -> Path:
        """The folder for the weights of an epoch until its score is known."""
        return self._folder / f"epoch-{epoch}"

    def _keep(self, epoch: int) -> None:
        folder = self._kept(epoch)
        if self._run.rank == 0:
            folder.mkdir(parents=True)
        self._write(folder)

    def _submit(self, epoch: int) -> None:
        if self._validators is not None:
            self._validators.submit(epoch, self._kept(epoch) / WEIGHTS_FILE)

    def _finished(self, epochs: Sequence[int], here: int | None) -> Iterator[tuple[int, HeldOutScores | None]]:
        """Those of the unscored epochs, oldest first, whose scores are in, and on rank 0 the scores.

        It waits where too many would be left, and with ``here`` for all.

        Args:
            here: the last of the epochs, if the workers are to score it now; its weights are those of the model.
        """
        own = None if here is None else self._score()  # while the validators finish theirs
        most = 0 if here is not None else MOST_UNSCORED * self._number
        for place, epoch in enumerate(epochs):
            if epoch == here:
                yield epoch, own
            elif self._is_done(epoch, wait=len(epochs) - place > most):
                yield epoch, self._result(epoch)
            else:
                return

    def _is_done(self, epoch: int, *, wait: bool) -> bool:
        """Whether a validator has scored the epoch or given up. Without validators there is nothing to wait for."""
        asked = self._validators
        while not self._agreed(asked is None or asked.is_done(epoch, POLL_SECONDS if wait else 0)):
            if not wait:
                return False
            self._run.alive()
            if self._run.rank == 0:
                state(f"waiting for the held-out score of epoch {epoch}")
        return True

    def _result(self, epoch: int) -> HeldOutScores | None:
        """A validator's scores, or the workers' own if no validator could score the epoch."""
        scores = problem = None
        if self._validators is not None:
            try:
                scores = self._validators.result(epoch)
            except InputError as error:
                problem = str(error)
        self._agreement.stop_if_any(problem)
        return scores if self._agreed(scores is not None) else self._score_kept(epoch)

    def _score_kept(self, epoch: int) -> HeldOutScores | None:
        """Score the weights of an earlier epoch on all ranks; the model then has its own again."""
        present = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        problem = None
        if self._run.rank == 0:
            message(f"the training workers score epoch {epoch} themselves")
            try:
                load_weights(self._model, self._kept(epoch) / WEIGHTS_FILE)
            except InputError as error:
                problem = str(error)
        self._agreement.stop_if_any(problem)
        scores = self._score()
        self._model.load_state_dict(present)
        return scores

    def _count(
        self, progress: Progress, epoch: int, scores: HeldOutScores | None, log: StepLog
    ) -> tuple[Progress, dict[str, float]]:
        """Log an epoch's scores, known to rank 0; keep its weights as the best if they are, else no longer.

        Returns:
            The progress since, and what to report of that epoch.
        """
        score = self._agreed(0.0 if scores is None else scores.single)
        is_best = score > progress.best_score
        if is_best:
            progress = replace(progress, best_score=score, best_epoch=epoch)
        progress = replace(progress, unscored=tuple(each for each in progress.unscored if each != epoch))
        if scores is not None:
            folder = self._kept(epoch)
            then = read_progress(folder)
            self._show(epoch, then.updates, scores, log)
            if is_best:
                _keep_best(folder, self._run.folder, replace(then, best_score=score, best_epoch=epoch, unscored=()))
            rmtree(folder)
        return progress, {"epoch": epoch, "held_out_score": score, "best_score": progress.best_score}

    def _show(self, epoch: int, updates: int, scores: HeldOutScores, log: StepLog) -> None:
        maps = {f"{name}_map": value for name, value in scores.mean_average_precision.items()}
        shown = "  ".join(f"{name} {value:.1%}" for name, value in scores.mean_average_precision.items())
        log.add_validation(updates - 1, maps, f"held-out mAP, epoch {epoch}: {shown}")
        log_event("validation", epoch=epoch, step=updates, world_size=self._run.world_size, **maps)
        message(f"epoch {epoch}: mAP on {scores.tracklets} held-out tracklets: {shown}", transient=True)

    def _agreed(self, value: float) -> float:
        return agree(value, self._run.device, self._run.world_size)


def _keep_best(weights: Path, run_folder: Path, progress: Progress) -> None:
    """Replace the run's best weights by those in a folder, with this progress."""
    best = run_folder / BEST_FOLDER
    fresh = best.with_name(f".{BEST_FOLDER}.new")
    rmtree(fresh, ignore_errors=True)
    copytree(weights, fresh)
    write_progress(fresh, progress)
    rmtree(best, ignore_errors=True)
    fresh.rename(best)
