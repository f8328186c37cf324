"""An edit from its words to the file and the shards."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..options import topology_path
from .options import How, how
from .telling import nothing, print_edit, show

if TYPE_CHECKING:
    from ...config import FileSnapshot, LockedFile
    from ...operations.barrier import Straggler
    from ...patches import Operation
    from ...topology import Topology


T = TypeVar("T")


_SAID = {
    "count": "counting rows on the shards",
    "begin": "announcing the edit on every shard",
    "prepare": "preparing the shards",
    "fence": "fencing what is given away",
    "file": "replacing the file",
    "numbers": "carrying the numbers of sequences over to another shard",
    "settle": "letting running routers take it over",
    "finish": "finishing on every shard",
}


TextOf = Callable[["FileSnapshot", "Topology", int], "str | None"]


def in_place(ctx: click.Context, topology_file: str | None, change: str, options: dict[str, Any], make: Any) -> None:
    """An edit of the file in place: `make(data, topology)` gives its operations."""
    from ...config import edit_text, file_data
    from ...patches import Put, applied

    def text_of(current: FileSnapshot, topology: Topology, epoch: int) -> str | None:
        data = file_data(current.text)
        operations: Sequence[Operation] = make(data, topology)
        if applied(data, operations) == data:
            return None
        return edit_text(current.text, [Put(("epoch",), epoch), *operations])

    edit(topology_path(ctx, topology_file), change, how(options), text_of)


def edit(path: str, change: str, how: How, text_of: TextOf) -> None:
    from ...config import locked, read_snapshot

    if how.dry_run:
        current = read_snapshot(path)
        run(_dry_run(path, current, how, text_of))
        return
    made: list[str] = []
    with locked(path) as file:
        try:
            run(_apply(file, path, change, how, text_of, made))
        except KeyboardInterrupt as error:
            if made[-1:] not in ([], ["count"]):
                error.add_note("The edit is begun and not finished. Run the same command again: it goes on.")
            raise


def run(work: Coroutine[Any, Any, T]) -> T:
    """Wait for it. asyncio is imported here: it takes as long as all of `--help`, and of completion."""
    import asyncio

    return asyncio.run(work)


async def _dry_run(path: str, current: FileSnapshot, how: How, text_of: TextOf) -> None:
    from ...config import text_diff
    from ...operations import plan_edit

    old = _parsed(current.text, path)
    text = text_of(current, old, old.epoch + 1)
    if text is None:
        nothing(old, how.as_json)
        return
    new = _parsed(text, path)
    show(await plan_edit(old, new, how.timeout), text_diff(current.text, text, path), how.as_json)


async def _apply(file: LockedFile, path: str, change: str, how: How, text_of: TextOf, made: list[str]) -> None:
    """Make the edit; `made` is told the steps."""
    from ...changes import describe_changes
    from ...config import text_diff
    from ...operations.edit import Edit, apply_edit
    from ...operations.unfinished_edits import next_epoch, resume

    def say(step: str) -> None:
        made.append(step)
        if not how.as_json:
            click.echo(f"{_SAID[step]} …", err=True)

    current = file.read()
    old = _parsed(current.text, path)
    finished = await resume(current.digest, old, settle=how.settle, timeout=how.timeout, say=say)
    if finished is not None:
        click.echo(
            f"epoch {old.epoch} was begun and not finished: it is finished now ({first(finished.change)})", err=True
        )
        for shard in finished.untold:
            click.echo(
                f"shard {shard} left the fleet by it and cannot be told: its own record stays unfinished", err=True
            )
        _warn(finished.behind)
        if first(finished.change) == change:
            print_edit(old, None, True, how.as_json)
            return
    epoch = await next_epoch(old, how.timeout) if how.take_over else old.epoch + 1
    text = text_of(current, old, epoch)
    if text is None:
        nothing(old, how.as_json)
        return
    new = _parsed(text, path)
    lines = describe_changes(old, new)
    if not how.as_json:
        click.echo(text_diff(current.text, text, path))
    author = how.author or f"{_user()}@{socket.gethostname()}"
    edit = Edit(current, text, old, new, "\n".join([change, *lines])[:4000], author)
    done = await apply_edit(
        file, edit, settle=how.settle, take_over=how.take_over, timeout=how.timeout, say=say, waiting=_waiting
    )
    _warn(done.behind)
    print_edit(new, done.plan, done.resumed, how.as_json)


def _waiting(foreign: Sequence[Straggler]) -> None:
    for session in foreign:
        click.echo(f"waiting for {session}", err=True)
    click.echo(
        "what works by no epoch is no router, but has the role of one: end it, give it a role of its own, or do not "
        "wait for it (--settle 0)",
        err=True,
    )


def _warn(behind: Sequence[Straggler]) -> None:
    for session in behind:
        click.echo(f"not waited for any longer: {session}", err=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return f"uid {os.getuid()}"


def _parsed(text: str, path: str) -> Topology:
    from ...config import parse_topology

    return parse_topology(text, file=path, folder=Path(path).parent)


def first(change: str) -> str:
    return change.splitlines()[0]
