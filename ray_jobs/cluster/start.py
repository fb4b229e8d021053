"""Starting a Ray cluster on this machine for one command."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import psutil
import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private.utils import get_num_cpus

from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.wording import first_line
from ray_jobs.cluster.token import use_token


def start_cluster(**settings: Any) -> None:
    """Start a new cluster with `ray.init`; retried once, because it may fail on a busy machine.

    Raises:
        InputError: it cannot be started; names the temporary folder, if that is the reason.
        OSError: the token cannot be written.
    """
    use_token()
    folder = get_default_ray_temp_dir()  # type: ignore[no-untyped-call]
    try:
        try:
            _start(settings)
        except RuntimeError as error:
            message(f"Ray did not start ({error}); retrying once")
            _start(settings)
    except OSError as error:
        raise InputError(
            f"Ray does not start with its temporary folder {folder}: {error.strerror or error}; set RAY_TMPDIR to "
            "another folder with a short path"
        ) from None
    except RuntimeError as error:
        raise InputError(
            f"Ray does not start: {error}; its logs are under {folder}/session_latest/logs. If the machine is busy, "
            "try again later"
        ) from None


def _start(settings: dict[str, Any]) -> None:
    """On failure, stops what was started and raises ``RuntimeError`` with Ray's reason, or ``OSError``."""
    before = set(psutil.Process().children())
    try:
        ray.init("local", num_cpus=_cpus(), **settings)
    except Exception as error:  # Ray raises bare exceptions
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            raise
        ray.shutdown()
        for process in set(psutil.Process().children()) - before:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        raise RuntimeError(first_line(error).rstrip(".")) from None


def _cpus() -> int:
    """CPUs as counted by Ray, but at least one: Ray rounds half a core down to none."""
    logger = logging.getLogger("ray._private.utils")
    logger.disabled = True  # it warns of fractions
    cpus = int(get_num_cpus(override_docker_cpu_warning=True))
    logger.disabled = False
    return max(1, cpus)
