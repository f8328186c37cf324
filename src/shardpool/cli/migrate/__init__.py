"""`migrate`: schema migrations of the whole fleet."""

from __future__ import annotations

import click

from ..groups import Group
from .files import lint, new
from .fleet import baseline, drift, provision, repair, verify
from .running import down, execute, plan, status, up

__all__ = ["migrate"]


class _Group(Group):
    """Commands stand in the order of their use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Group)
def migrate() -> None:
    """Change the schema of the whole fleet with plain SQL files.

    Files are in dbmate's format, in the folder `migrations` or, when only that is there, `db/migrations`. Each shard's
    own table shardpool.migrations says what is applied there.
    """


for _command in (new, lint, plan, up, status, down, baseline, verify, drift, repair, execute, provision):
    migrate.add_command(_command)
