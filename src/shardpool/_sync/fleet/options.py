# Generated from _async/fleet/options.py by tools/unasync.py: edit that one, then run `make sync`.
"""What the caller of a router adds to every connection, and what one is made with: parameters, password."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from psycopg import Connection

from ... import config
from ..._endpoint.meter import Meters
from ..._endpoint.refusals import unusable
from ..._runtime.periodic import within
from ..._runtime.tasks import aside
from ...events import Observers
from ...topology import Endpoint

# Seconds for making a connection, and again for the first answers on it, where no connect_timeout is given.
_CONNECT_SECONDS = 5
# More than any password, or token in the place of one.
_PASSWORD_FILE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """What the caller of the router adds to every connection; see `Router`."""

    connection_class: type[Connection[Any]] = Connection
    configure: Callable[[Connection[Any]], None] | None = None
    # Not shown: there may be a password among them.
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    observers: Observers = field(default_factory=Observers)
    max_held: int = 1000
    meters: Meters = field(default_factory=Meters)
    passwords: Callable[[str, str], str | None] | None = None


def connect_seconds(endpoint: Endpoint, options: ConnectOptions) -> float:
    """What making a connection may take: connect_timeout, or a default when it is 0 or not given."""
    given = {**dict(endpoint.params), **options.kwargs}.get("connect_timeout")
    seconds = float(given or 0)
    return seconds if seconds > 0 else _CONNECT_SECONDS


def parameters(shard: str, endpoint: Endpoint, options: ConnectOptions) -> dict[str, Any]:
    """What a connection is made with. No DSN: libpq quotes one that it cannot parse, password and all."""
    kwargs: dict[str, Any] = {"fallback_application_name": "shardpool", **dict(endpoint.params)}
    if endpoint.pooler == "transaction":
        kwargs["prepare_threshold"] = None
    given = _given_password(shard, endpoint, options)
    if given is not None:
        kwargs["password"] = given
    elif endpoint.password_file is not None:
        kwargs["password"] = _password_from(shard, endpoint, endpoint.password_file)
    elif endpoint.password is not None:
        kwargs["password"] = endpoint.password.reveal()
    return {**kwargs, **options.kwargs}


def _given_password(shard: str, endpoint: Endpoint, options: ConnectOptions) -> str | None:
    """What the caller's function gives for this connection."""
    if options.passwords is None:
        return None
    seconds = connect_seconds(endpoint, options)
    try:
        asked = partial(options.passwords, shard, endpoint.name)
        return within(asked, seconds)
    except Exception as error:
        # Its text is the caller's, and is not told further: it may say what was tried.
        what = f"passwords() raised {type(error).__name__}"
        if isinstance(error, TimeoutError):
            what = f"passwords() gave nothing within {seconds:g} s, which is connect_timeout"
        raise unusable(shard, endpoint, "its password cannot be had", what, None) from error


def _password_from(shard: str, endpoint: Endpoint, file: str) -> str:
    try:
        data = aside(partial(config.read_file, file, _PASSWORD_FILE_BYTES))
        return data.decode().rstrip("\r\n")
    except OSError as error:
        raise unusable(
            shard, endpoint, "its password_file cannot be read", f"{file}: {error.strerror}", None
        ) from error
    except UnicodeDecodeError:
        # Not told further: its text shows a byte of the password.
        raise unusable(shard, endpoint, "its password_file cannot be read", f"{file}: it is not UTF-8", None) from None
