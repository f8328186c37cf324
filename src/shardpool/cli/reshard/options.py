"""The options that every command has by which rows move."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import time
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..options import Seconds, json_option, topology_option

if TYPE_CHECKING:
    from ...reshard import MoveOptions

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {None: 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9}


class Rate(click.ParamType):  # type: ignore[type-arg]
    """`20MB/s`, as bytes in a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kmg]?b)?(?:/s)?", str(value).lower())
        if match is None or float(match[1]) <= 0:
            self.fail(f"{value} is not a rate: write 20MB/s", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


class Milliseconds(click.ParamType):  # type: ignore[type-arg]
    """`200ms` or `1s`, as seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s)", str(value).lower())
        if match is None or float(match[1]) <= 0:
            self.fail(f"{value} is not a time: write 200ms or 1s", param, ctx)
        return float(match[1]) * (0.001 if match[2] == "ms" else 1.0)


class Window(click.ParamType):  # type: ignore[type-arg]
    """`02:00-05:00`, as two times of day."""

    name = "window"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[time, time]:
        first, _, last = str(value).partition("-")
        try:
            return time.fromisoformat(first.strip()), time.fromisoformat(last.strip())
        except ValueError:
            self.fail(f"{value} is not a time of day: write 02:00-05:00", param, ctx)


class Address(click.ParamType):  # type: ignore[type-arg]
    """`s1=db1.internal:5432`."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        shard, equals, where = str(value).partition("=")
        if not equals or not re.fullmatch(r".+:[0-9]+", where):
            self.fail(f"{value} is not an address: write s1=db1.internal:5432", param, ctx)
        return shard, where


def move_options(command: F) -> F:
    """How a move is made; what comes of them is read by `options_of`."""
    options = [
        click.option(
            "--stragglers",
            type=click.Choice(["wait", "terminate"]),
            default="wait",
            show_default=True,
            help="What becomes of sessions that work by an older topology after --straggler-seconds: terminate ends "
            "them, wait stops the move and names them.",
        ),
        click.option(
            "--straggler-seconds",
            type=Seconds(),
            default=30.0,
            show_default=True,
            metavar="SECONDS",
            help="How long routers get to take each new topology over.",
        ),
        click.option(
            "--pause-limit",
            type=Milliseconds(),
            default="200ms",
            show_default=True,
            metavar="TIME",
            help="How long writers of the rows may have to wait while they are handed over.",
        ),
        click.option("--throttle", type=Rate(), metavar="RATE", help="Copy no faster than this, such as 20MB/s."),
        click.option(
            "--window",
            type=Window(),
            metavar="FROM-TO",
            help="Hand the rows over at this time of day only, such as 02:00-05:00; rows are copied before.",
        ),
        click.option(
            "--address",
            "addresses",
            type=Address(),
            multiple=True,
            metavar="SHARD=HOST:PORT",
            help="How other servers reach the server of a shard, where it is not as in the topology; may be repeated.",
        ),
        click.option(
            "--role",
            "roles",
            multiple=True,
            metavar="ROLE",
            help="One more role of the database under which routers connect; may be repeated.",
        ),
        click.option(
            "--patience",
            type=Seconds(),
            default=300.0,
            show_default=True,
            metavar="SECONDS",
            help="How long a server may be away before the command gives up; what it has done stays.",
        ),
        click.option("--author", metavar="NAME", help="Who makes the move. [default: user@machine]"),
    ]
    for option in reversed(options):
        command = option(command)
    return topology_option(json_option(command))


def finish_option(command: F) -> F:
    """`--finish`: to the end."""
    return click.option(
        "--finish", is_flag=True, help="Delete the copy of the source at once: then there is no way back."
    )(command)


def many_options(command: F) -> F:
    """How many buckets a move has, and how many moves are made at once."""
    at_once = click.option(
        "--at-once", type=click.IntRange(min=1), default=64, show_default=True, help="Buckets of one move at most."
    )
    parallel = click.option(
        "--parallel",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Moves that are made at the same time at most; a shard takes rows of one at a time.",
    )
    return at_once(parallel(command))


def dry_run_option(command: F) -> F:
    """`--dry-run`: nothing is changed."""
    return click.option("--dry-run", is_flag=True, help="Say what would move, and what is in the way; change nothing.")(
        command
    )


def options_of(options: dict[str, Any]) -> MoveOptions:
    """The options of `move_options` as one value."""
    from ...reshard import MoveOptions

    return MoveOptions(
        stragglers=options["stragglers"],
        straggler_seconds=options["straggler_seconds"],
        pause_limit=options["pause_limit"],
        throttle=options["throttle"],
        window=options["window"],
        patience=options["patience"],
        addresses=dict(options["addresses"]),
        roles=options["roles"],
        finish=options.get("finish", False),
        author=options["author"],
    )
