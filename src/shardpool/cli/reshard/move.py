"""`move`: rows of buckets, of a key or of a table to another shard; and what is done with moves that run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from ..edit.running import run
from ..groups import Group
from ..options import _keyspaces, json_option, shards, tables, topology_option, topology_path
from ..output import print_json, print_table
from ..route import parse_key
from .options import dry_run_option, finish_option, move_options, options_of
from .telling import Teller, print_status

if TYPE_CHECKING:
    from ...reshard import MoveOptions, Mover
    from ...topology import RunningMove, Topology


class _Moves(Group):
    """What is no command of its own is a move to begin: `move tenants --buckets 0-63 --to s4`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["begin", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Moves)
def move() -> None:
    """Move rows to another shard while they are used: `move tenants --buckets 0-63 --to s4`.

    The rows are copied, followed, compared and handed over. The source keeps a copy that follows until `move finish`;
    until then `move rollback` takes everything back. Whatever ends the command, `move resume` goes on.
    """


@move.command("begin")
@click.argument("keyspace", required=False, shell_complete=_keyspaces)
@click.option("--buckets", metavar="RANGES", help="Which buckets: 0-63, 7, or several with commas.")
@click.option("--key", metavar="KEY", help="One key; where it shares a bucket, it gets one of its own.")
@click.option("--table", metavar="NAME", help="A single table.", shell_complete=tables)
@click.option("--to", "target", required=True, metavar="SHARD", help="Who gets the rows.", shell_complete=shards)
@finish_option
@dry_run_option
@move_options
@click.pass_context
def begin(
    ctx: click.Context,
    /,
    keyspace: str | None,
    buckets: str | None,
    key: str | None,
    table: str | None,
    target: str,
    topology_file: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Begin a move and make it: the same as without the word `begin`."""
    if sum(given is not None for given in (buckets, key, table)) != 1:
        raise click.UsageError("say what moves: --buckets, --key or --table")
    if table is not None and keyspace is not None:
        raise click.UsageError("a single table is in no keyspace: leave it out")
    path = topology_path(ctx, topology_file)

    async def moves(topology: Topology) -> list[RunningMove]:
        from ...reshard import AsyncMoves, move_of_buckets
        from ...reshard.plan import bucket_of_key

        planned = AsyncMoves(path)
        if key is None:
            return [await planned.plan(keyspace, to=target, buckets=_buckets(buckets), table=table)]
        space = topology.keyspace(keyspace)
        value = parse_key(key, len(space.key_types))
        if dry_run and bucket_of_key(space, value) is None:
            click.echo("the key shares a bucket, and would get one of its own: this is what that bucket has", err=True)
            return [move_of_buckets(topology, space, [space.partitioning.bucket(value)], target)]
        return [await planned.plan(space.name, to=target, key=value)]

    make(path, moves, options_of(options), dry_run, as_json)


def _buckets(text: str | None) -> list[int] | None:
    if text is None:
        return None
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise click.UsageError(f"{part.strip()!r} is no range of buckets: write 0-63, 7, or several with commas")
        numbers += range(int(first), int(last if dash else first) + 1)
    return numbers


Loads = tuple[str, dict[str, tuple[int, int]]]


def make(
    path: str,
    moves: Callable[[Topology], Coroutine[Any, Any, list[RunningMove]]],
    options: MoveOptions,
    dry_run: bool,
    as_json: bool,
    *,
    parallel: int = 1,
    loads: Loads | None = None,
) -> None:
    """Make moves, so many at once; with `dry_run` only look at them.

    `loads`: what is evened out, and what each shard has of it before and afterwards, as soon as moves are planned.
    """
    run(_make(path, moves, options, dry_run, as_json, parallel, loads))


async def _make(
    path: str,
    moves: Callable[[Topology], Coroutine[Any, Any, list[RunningMove]]],
    options: MoveOptions,
    dry_run: bool,
    as_json: bool,
    parallel: int,
    loads: Loads | None,
) -> None:
    from ...config import load_topology
    from ...reshard import AsyncMoves, Mover

    wanted = await moves(load_topology(path))
    topology = load_topology(path)
    if loads is not None and not as_json:
        by, load_by_shard = loads
        print_table(["shard", by, "afterwards"], [[name, *load] for name, load in load_by_shard.items()])
    looked = []
    for move in wanted:
        if move.number:
            click.echo(f"{move} is taken up", err=True)
            continue
        ready = await Mover(path, options).look(move)
        ends = {"from": move.source, "to": move.target}
        looked.append({"what": move.what, **ends, "rows": ready.rows, "bytes": ready.bytes})
        if not as_json and (dry_run or len(wanted) > 1):
            where = f"{move.source} → {move.target}"
            count = f"about {ready.rows:,} rows" if ready.rows or not ready.bytes else "rows not known before ANALYZE"
            click.echo(f"{move.what}: {where}, {count}, {ready.bytes / 1e6:,.1f} MB with indexes")
    if not wanted and not as_json:
        click.echo("nothing to move")
    made: list[int] = []
    if not dry_run:
        teller = Teller(as_json, several=parallel > 1)
        made = await AsyncMoves(path).make(wanted, options, at_once=parallel, progress=teller, planned_by=topology)
    if as_json:
        answer = {"fleet": topology.fleet, "planned": looked, "moves": made}
        if loads is not None:
            by, load_by_shard = loads
            shards = [{"shard": name, "now": now, "then": then} for name, (now, then) in load_by_shard.items()]
            answer |= {"by": by, "shards": shards}
        print_json(answer)


def _on_a_move(name: str, help: str, work: Callable[[Mover, int], Coroutine[Any, Any, None]]) -> None:
    """A command that goes on with a move that runs."""

    @move.command(name, help=help)
    @click.argument("number", type=click.IntRange(min=1))
    @finish_option
    @move_options
    @click.pass_context
    def command(ctx: click.Context, /, number: int, topology_file: str | None, as_json: bool, **options: Any) -> None:
        from ...reshard import Mover

        path = topology_path(ctx, topology_file)
        mover = Mover(path, options_of(options), Teller(as_json))
        run(work(mover, number))
        if as_json:
            print_json({"fleet": mover.topology.fleet, "epoch": mover.topology.epoch, "move": number})


_on_a_move(
    "resume",
    "Go on with a move, wherever it was left: after `pause`, an error, or the end of its process.",
    lambda mover, number: mover.resume(number),
)
_on_a_move(
    "finish",
    "Delete the copy that the source still has. Afterwards there is no way back.",
    lambda mover, number: mover.finish(number),
)
_on_a_move(
    "rollback",
    "Hand the rows back to the shard that they came from, with all that was written since.",
    lambda mover, number: mover.roll_back(number),
)
_on_a_move(
    "abort",
    "Undo a move whose rows are not handed over yet: nothing of it is left on the target.",
    lambda mover, number: mover.abort(number),
)


@move.command("pause")
@click.argument("number", type=click.IntRange(min=1))
@topology_option
@click.pass_context
def pause(ctx: click.Context, /, number: int, topology_file: str | None) -> None:
    """Have the process that makes a move wait, in the middle of copying as well, until `move resume`."""
    from ...reshard import Mover

    run(Mover(topology_path(ctx, topology_file)).ask(number, "pause"))
    click.echo(f"move {number} pauses: shardpool move resume {number}")


@move.command("status")
@click.argument("number", type=click.IntRange(min=1), required=False)
@click.option("--all", "over", is_flag=True, help="Those as well that are over.")
@topology_option
@json_option
@click.pass_context
def status(ctx: click.Context, /, number: int | None, over: bool, topology_file: str | None, as_json: bool) -> None:
    """Say how far moves are, what holds them up, and who works by an older topology."""
    from ...reshard import AsyncMoves

    moves = AsyncMoves(topology_path(ctx, topology_file))
    statuses = run(moves.status(number, over=over))
    print_status(statuses, moves.topology.fleet, as_json)
