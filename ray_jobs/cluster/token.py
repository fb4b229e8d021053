"""Tokens that protect Ray clusters: like Ray's own handling, but without a warning and safe for concurrent commands."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError

from data_tools.errors import InputError

MODE = "RAY_AUTH_MODE"


def use_token_if_there() -> None:
    """Call before joining a cluster that was not named by RAY_ADDRESS; RAY_AUTH_MODE takes precedence, if set."""
    if MODE not in os.environ and _has_token():
        _use_tokens()


def use_token() -> None:
    """Call before starting a cluster, which then requires the user's token; creates one if needed.

    Raises:
        InputError: RAY_AUTH_TOKEN_PATH does not name a token.
        OSError: the token cannot be written.
    """
    if MODE not in os.environ:
        _use_tokens()
    if os.environ[MODE].lower() == "token" and not _has_token():
        make_token(Path.home() / ".ray" / "auth_token")
        AuthenticationTokenLoader.instance().reset_cache()


def _use_tokens() -> None:
    os.environ[MODE] = "token"
    Config.initialize("")  # Ray has read the environment at import


def _has_token() -> bool:
    try:
        return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    except AuthenticationError as error:
        raise InputError(str(error).split(". ")[0]) from None


def make_token(path: Path) -> None:
    """Create a file with a new token that only its owner can read; with two concurrent commands, that of the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.touch(0o600)
    draft.write_text(secrets.token_hex(32))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        draft.replace(path)
    draft.unlink(missing_ok=True)
