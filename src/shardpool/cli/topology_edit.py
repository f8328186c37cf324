"""`topology diff | plan | apply | set | rename | pin | unpin | split | shard … | history`: edits of the topology."""

from __future__ import annotations

import getpass
import re
import shlex
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .options import json_option, shards, topology_option, topology_path
from .output import print_json, print_table
from .route import parse_key

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..config import LockedFile, Snapshot
    from ..edits import Operation
    from ..operations import Plan
    from ..topology import Topology

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_SECRET = re.compile("pass|pwd|secret", re.I)
_NO_SECRETS = ("password_file", "passfile", "plain_passwords")
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@/\s]+@")
_DONE = {
    "count": "counting rows on the shards",
    "begin": "announcing the edit on every shard",
    "prepare": "preparing the shards",
    "fence": "fencing what is given away",
    "file": "replacing the file",
    "settle": "letting running routers take the file over",
    "finish": "finishing on every shard",
}


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
            help="When buckets change their owner: how long running routers get to take the file over, before the "
            "shards refuse those that have not. They look every 5 s unless told otherwise.",
        ),
        click.option(
            "--take-over",
            is_flag=True,
            help="Give up an edit that somebody else has begun and will never finish.",
        ),
        click.option(
            "--timeout", type=float, default=120.0, show_default=True, metavar="SECONDS", help="For the whole edit."
        ),
        click.option("--author", metavar="NAME", help="Who makes the change. [default: user@machine]"),
    ]
    for option in reversed(options):
        command = option(command)
    return topology_option(json_option(command))


def how(options: dict[str, Any]) -> How:
    """The options of `edit_options` as one value."""
    names = ("dry_run", "settle", "take_over", "timeout", "author", "as_json")
    return How(**{name: options[name] for name in names})


@click.command("diff")
@click.argument("old", type=click.Path(exists=True, dir_okay=False))
@click.argument("new", type=click.Path(exists=True, dir_okay=False))
@json_option
def diff(old: str, new: str, as_json: bool) -> None:
    """Say in words what changes from one topology file to another. Asks no server."""
    from ..changes import moves
    from ..config import load_topology
    from ..operations.edit_plan import first_plan

    before, after = load_topology(old), load_topology(new)
    plan = first_plan(before, after)
    if as_json:
        print_json({"fleet": after.fleet, **plan.as_dict(), "rows": None})
        return
    _print_changes(plan)
    if moves(before, after):
        click.echo("Rows are counted on the shards: shardpool topology plan NEW")


@click.command("plan")
@click.argument("new", type=click.Path(exists=True, dir_okay=False))
@click.option("--timeout", type=float, default=60.0, show_default=True, metavar="SECONDS", help="For all shards.")
@topology_option
@json_option
@click.pass_context
def plan(ctx: click.Context, /, new: str, timeout: float, topology_file: str | None, as_json: bool) -> None:
    """Say what a new file would change, and how many buckets and rows would change owner, counted on the shards.

    Changes nothing. Exits with 1 when `apply` would refuse.
    """
    from ..config import load_topology
    from ..operations import plan_edit

    before, after = load_topology(topology_path(ctx, topology_file)), load_topology(new)
    _show(_run(plan_edit(before, after, timeout)), None, as_json)


@click.command("apply")
@click.argument("new", type=click.Path(exists=True, dir_okay=False))
@edit_options
@click.pass_context
def apply(ctx: click.Context, /, new: str, topology_file: str | None, **options: Any) -> None:
    """Put a new topology in force: on the shards, and in the place of the topology file.

    NEW is a copy of the topology file with changes; its epoch stays as it is, and is raised here. It is refused when
    the topology file has a later epoch by now, and when buckets that hold rows would change their owner.
    """
    from ..config import parse_topology, read_text

    path = topology_path(ctx, topology_file)
    given = read_text(new)

    def text_of(current: Snapshot, topology: Topology, epoch: int) -> str | None:
        wanted = parse_topology(given, file=new, folder=Path(path).parent)
        if wanted.epoch < topology.epoch and _with_epoch(given, topology.epoch) == current.text:
            return None
        if wanted.epoch != topology.epoch:
            from ..errors import EditRefused

            late = wanted.epoch < topology.epoch
            raise EditRefused(
                f"{new} is of epoch {wanted.epoch}, and {path} of epoch {topology.epoch}",
                hint="Somebody else was first: make the changes again in a copy of the newer file."
                if late
                else f"Leave the epoch as it is in {path}: it is raised when the change is applied.",
            )
        return None if given == current.text else _with_epoch(given, epoch)

    _edit(path, f"apply {Path(new).name}", how(options), text_of)


def _with_epoch(text: str, epoch: int) -> str:
    from ..config import edit_text
    from ..edits import Put

    return edit_text(text, [Put(("epoch",), epoch)])


TextOf = Callable[["Snapshot", "Topology", int], "str | None"]


def in_place(ctx: click.Context, topology_file: str | None, change: str, options: dict[str, Any], make: Any) -> None:
    """An edit of the file in place: `make(data, topology)` gives its operations."""
    from ..config import edit_text, file_data
    from ..edits import Put, applied

    def text_of(current: Snapshot, topology: Topology, epoch: int) -> str | None:
        data = file_data(current.text)
        operations: Sequence[Operation] = make(data, topology)
        if applied(data, operations) == data:
            return None
        return edit_text(current.text, [Put(("epoch",), epoch), *operations])

    _edit(topology_path(ctx, topology_file), change, how(options), text_of)


def _edit(path: str, change: str, how: How, text_of: TextOf) -> None:
    from ..config import locked, read_snapshot

    if how.dry_run:
        current = read_snapshot(path)
        _run(_dry_run(path, current, how, text_of))
        return
    with locked(path) as file:
        _run(_apply(file, path, change, how, text_of))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Wait for it. asyncio is imported here: it takes as long as all of `--help`, and of completion."""
    import asyncio

    return asyncio.run(work)


async def _dry_run(path: str, current: Snapshot, how: How, text_of: TextOf) -> None:
    from ..operations import plan_edit

    old = _parsed(current.text, path)
    text = text_of(current, old, old.epoch + 1)
    if text is None:
        _nothing(old, how.as_json)
        return
    new = _parsed(text, path)
    _show(await plan_edit(old, new, how.timeout), _masked_diff(current.text, text, path), how.as_json)


async def _apply(file: LockedFile, path: str, change: str, how: How, text_of: TextOf) -> None:
    from ..operations.edit import Edit, apply_edit, next_epoch, take_up

    def say(step: str) -> None:
        if not how.as_json:
            click.echo(f"{_DONE[step]} …", err=True)

    current = file.read()
    old = _parsed(current.text, path)
    finished = await take_up(current, old, settle=how.settle, timeout=how.timeout, say=say)
    if finished is not None:
        click.echo(f"epoch {old.epoch} was begun and not finished: it is finished now ({_first(finished)})", err=True)
        if _first(finished) == change:
            _told(old, None, True, how.as_json)
            return
    epoch = await next_epoch(old, how.timeout) if how.take_over else old.epoch + 1
    text = text_of(current, old, epoch)
    if text is None:
        _nothing(old, how.as_json)
        return
    new = _parsed(text, path)
    from ..changes import describe_changes

    lines = describe_changes(old, new)
    if not how.as_json:
        click.echo(_masked_diff(current.text, text, path))
    author = how.author or f"{getpass.getuser()}@{socket.gethostname()}"
    edit = Edit(current, text, old, new, "\n".join([change, *lines])[:4000], author)
    done = await apply_edit(file, edit, settle=how.settle, take_over=how.take_over, timeout=how.timeout, say=say)
    _told(new, done.plan, done.resumed, how.as_json)


def _parsed(text: str, path: str) -> Topology:
    from ..config import parse_topology

    return parse_topology(text, file=path, folder=Path(path).parent)


def _first(change: str) -> str:
    return change.splitlines()[0]


def _nothing(topology: Topology, as_json: bool) -> None:
    if as_json:
        print_json({"fleet": topology.fleet, "epoch": topology.epoch, "changes": []})
    else:
        click.echo(f"nothing to change: fleet {topology.fleet} is so already, at epoch {topology.epoch}")


def _told(topology: Topology, plan: Plan | None, resumed: bool, as_json: bool) -> None:
    if as_json:
        told = plan.as_dict() if plan is not None else {}
        print_json({"fleet": topology.fleet, **told, "epoch": topology.epoch, "resumed": resumed})
        return
    if plan is not None:
        _print_changes(plan)
    click.echo(f"fleet {topology.fleet} is at epoch {topology.epoch}")


def _show(plan: Plan, text_diff: str | None, as_json: bool) -> None:
    """A plan that is not applied; exits with 1 when it would be refused."""
    refused = plan.refusal()
    if as_json:
        print_json({"fleet": plan.new.fleet, **plan.as_dict(), "applicable": refused is None})
    else:
        if text_diff:
            click.echo(text_diff)
        _print_changes(plan)
        if plan.moves and plan.shards_counted:
            click.echo(f"{_count(plan.buckets, 'bucket')} and {_count(plan.rows, 'row')} would change owner")
    if refused is not None:
        raise refused


def _print_changes(plan: Plan) -> None:
    for line in plan.changes or ["no difference"]:
        click.echo(line)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _masked_diff(old_text: str, new_text: str, path: str) -> str:
    """The lines that change, with no password among them."""
    from ..config import file_data, text_diff

    shown = text_diff(old_text, new_text, path)
    secrets = {secret for text in (old_text, new_text) for secret in _passwords(file_data(text))}
    for secret in sorted(secrets, key=len, reverse=True):
        shown = shown.replace(secret, "***")
    return _URL_PASSWORD.sub(r"\1:***@", shown)


def _passwords(data: Any) -> Iterator[str]:
    """Every password that stands in the file itself, whether or not it is used."""
    if isinstance(data, list):
        yield from (secret for item in data for secret in _passwords(item))
    elif isinstance(data, dict):
        for key, value in data.items():
            if isinstance(value, dict | list):
                yield from _passwords(value)
            elif value not in (None, "") and _SECRET.search(str(key)) and key not in _NO_SECRETS:
                yield str(value)


def _command(*words: str) -> str:
    return shlex.join(words)


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
    from ..config import value_data
    from ..edits import put

    data = value_data(value)
    secret = bool(_SECRET.search(path)) or "://" in value or bool(_SECRET.search(value))
    change = _command("set", path, "***" if secret else value)
    in_place(ctx, topology_file, change, options, lambda current, _: put(current, path.split("."), data))


def _paths(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from ..config import file_data, read_text

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
    from ..edits import rename_shard

    change = _command("rename", old, new)
    in_place(ctx, topology_file, change, options, lambda data, topology: rename_shard(data, topology, old, new))


def _keyspace_option(command: F) -> F:
    from .options import _keyspaces

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
    _pin(ctx, key, shard, keyspace, topology_file, options, _command("pin", key, shard))


@click.command("unpin")
@click.argument("key")
@_keyspace_option
@edit_options
@click.pass_context
def unpin(ctx: click.Context, /, key: str, keyspace: str | None, topology_file: str | None, **options: Any) -> None:
    """Let a pinned key go back to the bucket of its hash. Refused while the key has rows on another shard."""
    _pin(ctx, key, None, keyspace, topology_file, options, _command("unpin", key))


def _pin(
    ctx: click.Context,
    key: str,
    shard: str | None,
    keyspace: str | None,
    topology_file: str | None,
    options: dict[str, Any],
    change: str,
) -> None:
    from .. import edits
    from ..partitioning import Hash

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
    from .. import edits
    from ..partitioning import Range

    def make(data: Any, topology: Topology) -> list[Operation]:
        space = edits.find_keyspace(topology, keyspace, Range)
        return edits.split(data, topology, space, parse_key(key, len(space.key_types)), shard)

    change = _command("split", key, *(["--to", shard] if shard else []))
    in_place(ctx, topology_file, change, options, make)


@click.group("shard")
def shard_group() -> None:
    """Add, empty or remove a shard."""


@shard_group.command("add")
@click.argument("name")
@click.argument("address")
@click.option("--replica", "replicas", multiple=True, metavar="ADDRESS", help="A replica; may be repeated.")
@edit_options
@click.pass_context
def add(
    ctx: click.Context, /, name: str, address: str, replicas: tuple[str, ...], topology_file: str | None, **options: Any
) -> None:
    """Add a shard that owns nothing yet, and install the shardpool schema on it.

    ADDRESS is host, host:port or a postgresql:// URL; the rest comes from the file's defaults.
    """
    from ..edits import add_shard

    value: dict[str, Any] = {"primary": _endpoint(address)}
    if replicas:
        value["replicas"] = [_endpoint(replica) for replica in replicas]
    change = _command("shard", "add", name, _without_password(address), *map(_without_password, replicas))
    in_place(ctx, topology_file, change, options, lambda _, topology: add_shard(topology, name, value))


def _without_password(address: str) -> str:
    return _URL_PASSWORD.sub(r"\1:***@", address).partition("?")[0]


def _endpoint(address: str) -> Any:
    if "://" in address:
        return address
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and not address.startswith("/"):
        return {"host": host.strip("[]"), "port": int(port)}
    return {"host": address.strip("[]")}


@shard_group.command("remove")
@click.argument("name", shell_complete=shards)
@edit_options
@click.pass_context
def remove(ctx: click.Context, /, name: str, topology_file: str | None, **options: Any) -> None:
    """Remove a shard that owns nothing. Its server is not touched, and need not be there."""
    from ..edits import remove_shard

    change = _command("shard", "remove", name)
    in_place(ctx, topology_file, change, options, lambda data, topology: remove_shard(data, topology, name))


@shard_group.command("drain")
@click.argument("name", shell_complete=shards)
@click.option(
    "--to",
    "targets",
    multiple=True,
    metavar="SHARD",
    help="Who gets them; may be repeated. [default: all others]",
    shell_complete=shards,
)
@edit_options
@click.pass_context
def drain(
    ctx: click.Context, /, name: str, targets: tuple[str, ...], topology_file: str | None, **options: Any
) -> None:
    """Give all buckets of a shard to others, evenly. Refused, with the numbers, while they hold rows."""
    from ..edits import drain_shard

    words = [word for target in targets for word in ("--to", target)]
    change = _command("shard", "drain", name, *words)
    make = lambda data, topology: drain_shard(data, topology, name, targets)  # noqa: E731
    in_place(ctx, topology_file, change, options, make)


@click.command("history")
@click.option("-n", "limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@topology_option
@json_option
@click.pass_context
def history(ctx: click.Context, /, limit: int, topology_file: str | None, as_json: bool) -> None:
    """Who changed the topology, when and what, as the shards have recorded it; the newest first."""
    from ..config import load_topology
    from ..operations import edit_history

    topology = load_topology(topology_path(ctx, topology_file))
    found = _run(edit_history(topology, limit))
    if as_json:
        print_json({"fleet": topology.fleet, "changes": [change.as_dict() for change in found]})
        return
    rows = []
    for change in found:
        outcome = change.outcome
        if change.unfinished and len(change.unfinished) < len(change.shards):
            outcome = f"unfinished on {', '.join(change.unfinished)}"
        when = change.begun_at.astimezone().isoformat(" ", "seconds")
        rows.append((change.epoch, when, change.author, outcome, _first(change.change)))
    print_table(["epoch", "begun", "author", "outcome", "change"], rows)


COMMANDS = (diff, plan, apply, set_value, rename, pin, unpin, split, shard_group, history)

__all__ = ["COMMANDS"]
