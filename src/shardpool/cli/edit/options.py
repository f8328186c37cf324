"""The options that every edit has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from ..options import json_option, timeout_option, topology_option

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class How:
    """The options that every edit has."""

    dry_run: bool
    settle: float
    take_over: bool
    timeout: float
    author: str | None
    as_json: bool


def edit_options(command: F) -> F:
    """What every command has that changes the topology; they come as one `How`."""
    options = [
        click.option(
            "--dry-run", is_flag=True, help="Show what would change, counted on the shards, and change nothing."
        ),
        click.option(
            "--settle",
            type=click.FloatRange(min=0),
            default=8.0,
            show_default=True,
            metavar="SECONDS",
            help="When buckets change their owner: for how long running routers are waited for at most, before the "
            "shards refuse those that work by the older topology. They look every 5 s unless told otherwise.",
        ),
        click.option(
            "--take-over",
            is_flag=True,
            help="Give up an edit that somebody else has begun and will never finish.",
        ),
        timeout_option("For the whole edit.", 120.0),
        click.option("--author", metavar="NAME", help="Who makes the change. [default: user@machine]"),
    ]
    for option in reversed(options):
        command = option(command)
    return topology_option(json_option(command))


def how(options: dict[str, Any]) -> How:
    """The options of `edit_options` as one value."""
    names = ("dry_run", "settle", "take_over", "timeout", "author", "as_json")
    return How(**{name: options[name] for name in names})
