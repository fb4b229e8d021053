"""Events of a run that only Ray Train's controller knows: failed workers and committed checkpoints."""

from __future__ import annotations

from typing import Any

from ray.train import UserCallback

from data_tools.progress import Kept, Message, State
from ray_jobs.cluster.job_console import drivers_console


class WorkerEvents(UserCallback):
    """Lives in the controller and informs the driver.

    Args:
        most_failures: after more failures, the run fails, which the driver reports itself.
    """

    def __init__(self, most_failures: int) -> None:
        self._most, self._failures = most_failures, 0

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002
        """A reported checkpoint is committed."""
        if checkpoint is not None:
            self._send(Kept("checkpoint", f"a checkpoint of {place_of(metrics[0])}"))

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Workers failed; the group is restarted."""
        self._failures += 1
        if self._failures > self._most:
            return
        rank, error = min(worker_exceptions.items())
        count = f"{self._failures} of {self._most}"
        self._send(Message(f"worker {rank} failed: {reason(error)}"))
        self._send(State(f"restarting the workers from the last checkpoint, {count}"))

    def _send(self, news: Message | State | Kept) -> None:
        if console := drivers_console():
            console.show(news)


def place_of(metrics: dict[str, Any]) -> str:
    """A checkpoint's position in training, from the metrics reported with it: after an epoch, or within the next."""
    epoch = int(metrics["epoch"])
    return f"epoch {epoch + 1}, step {metrics['step']}" if "step" in metrics else f"epoch {epoch}"


def reason(error: BaseException) -> str:
    """An error's last line, or that the process died."""
    cause = getattr(error, "health_check_failure", error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if type(cause).__name__ in ("ActorDiedError", "RayActorError", "NodeDiedError"):
        return "its process died"
    return lines[-1] if lines else type(cause).__name__
