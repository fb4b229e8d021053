"""Tokens that protect Ray clusters: in silence what Ray does with a warning, and safe for two commands at once."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError

from data_tools.errors import InputError

MODE = "RAY_AUTH_MODE"


def use_token_if_there() -> None:
    """Before joining a cluster that nobody named; RAY_AUTH_MODE, where it is set, says otherwise."""
    if MODE not in os.environ and _has_token():
        _use_tokens()


def use_token() -> None:
    """Before starting a cluster, which then asks for the user's token; makes one where there is none.

    Raises:
        InputError: RAY_AUTH_TOKEN_PATH names no token.
        OSError: the token cannot be written.
    """
    if MODE not in os.environ:
        _use_tokens()
    if os.environ[MODE].lower() == "token" and not _has_token():
        _make_token(Path.home() / ".ray" / "auth_token")
        AuthenticationTokenLoader.instance().reset_cache()


def _use_tokens() -> None:
    os.environ[MODE] = "token"
    Config.initialize("")  # Ray read the environment when it was imported


def _has_token() -> bool:
    try:
        return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    except AuthenticationError as error:
        raise InputError(str(error).split(". ")[0]) from None


def _make_token(path: Path) -> None:
    """Write it at once as a whole: the processes of both commands read what the first one wrote."""
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
