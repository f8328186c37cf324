"""`topology set | rename | pin | unpin | split`: parts of the file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..options import _keyspaces, shards, topology_path
from ..route import parse_key
from .options import edit_options
from .running import in_place

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ...patches import Operation
    from ...topology import Topology

F = TypeVar("F", bound=Callable[..., Any])


_SECRET = re.compile("pass|pwd|secret", re.I)


@click.command("set")
@click.argument("path", shell_complete=lambda ctx, param, incomplete: _paths(ctx, incomplete))
@click.argument("value")
@edit_options
@click.pass_context
def set_value(ctx: click.Context, /, path: str, value: str, topology_file: str | None, **options: Any) -> None:
    """Set one value of the file: `set shards.s2.pool.max_size 20`.

    A path is the fields' names with dots between them, and numbers of list items from 0. The value is written as in the
    file: 20, 5s, {max_size: 20}.
    """
    from ...config import value_data
    from ...edits import put

    if path == "epoch":
        raise click.UsageError("the epoch is raised by every edit, and is not set")
    data = value_data(value)
    secret = bool(_SECRET.search(path)) or "://" in value or bool(_SECRET.search(value))
    change = shlex.join(["set", path, "***" if secret else value])
    in_place(ctx, topology_file, change, options, lambda current, _: put(current, path.split("."), data))


def _paths(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from ...config import file_data, read_text

    try:
        data = file_data(read_text(topology_path(ctx, ctx.params.get("topology_file"))))
    except Exception:  # a completion has nothing to say of a bad file
        return []
    *way, start = incomplete.split(".")
    for part in way:
        data = data.get(part) if isinstance(data, dict) else None
    names = data if isinstance(data, dict) else {}
    return [CompletionItem(".".join([*way, str(name)])) for name in names if str(name).startswith(start)]


@click.command("rename")
@click.argument("old", shell_complete=shards)
@click.argument("new")
@edit_options
@click.pass_context
def rename(ctx: click.Context, /, old: str, new: str, topology_file: str | None, **options: Any) -> None:
    """Give a shard another name, in the file and on its server. Running routers go on under either name."""
    from ...edits import rename_shard

    change = shlex.join(["rename", old, new])
    in_place(ctx, topology_file, change, options, lambda data, topology: rename_shard(data, topology, old, new))


def _keyspace_option(command: F) -> F:

    return click.option(
        "--keyspace", metavar="NAME", help="The keyspace, where there are several.", shell_complete=_keyspaces
    )(command)


@click.command("pin")
@click.argument("key")
@click.argument("shard", shell_complete=shards)
@_keyspace_option
@edit_options
@click.pass_context
def pin(
    ctx: click.Context, /, key: str, shard: str, keyspace: str | None, topology_file: str | None, **options: Any
) -> None:
    """Give a key a home of its own. Refused while the key has rows on another shard."""
    _pin(ctx, key, shard, keyspace, topology_file, options, shlex.join(["pin", key, shard]))


@click.command("unpin")
@click.argument("key")
@_keyspace_option
@edit_options
@click.pass_context
def unpin(ctx: click.Context, /, key: str, keyspace: str | None, topology_file: str | None, **options: Any) -> None:
    """Let a pinned key go back to the bucket of its hash. Refused while the key has rows on another shard."""
    _pin(ctx, key, None, keyspace, topology_file, options, shlex.join(["unpin", key]))


def _pin(
    ctx: click.Context,
    key: str,
    shard: str | None,
    keyspace: str | None,
    topology_file: str | None,
    options: dict[str, Any],
    change: str,
) -> None:
    from ... import edits
    from ...partitioning import Hash

    def make(data: Any, topology: Topology) -> list[Operation]:
        space = edits.find_keyspace(topology, keyspace, Hash)
        return edits.pin(data, topology, space, parse_key(key, len(space.key_types)), shard)

    in_place(ctx, topology_file, change, options, make)


@click.command("split")
@click.argument("key")
@click.option(
    "--to", "shard", metavar="SHARD", help="Who owns the upper part. [default: as before]", shell_complete=shards
)
@_keyspace_option
@edit_options
@click.pass_context
def split(
    ctx: click.Context, /, key: str, shard: str | None, keyspace: str | None, topology_file: str | None, **options: Any
) -> None:
    """Divide a range at a key: the keys from it on are a range of their own.

    With --to another shard owns it; refused while it holds rows.
    """
    from ... import edits
    from ...partitioning import Range

    def make(data: Any, topology: Topology) -> list[Operation]:
        space = edits.find_keyspace(topology, keyspace, Range)
        return edits.split(data, topology, space, parse_key(key, len(space.key_types)), shard)

    change = shlex.join(["split", key, *(["--to", shard] if shard else [])])
    in_place(ctx, topology_file, change, options, make)
