"""`migrate`: schema migrations of the whole fleet."""

from __future__ import annotations

from typing import Any

import click

from ..app import MISTAKE, print_error
from .files import lint, new
from .fleet import baseline, drift, provision, repair, verify
from .running import down, execute, plan, status, up

__all__ = ["migrate"]


class _Group(click.Group):
    """Mistakes in the files or the call exit with 2, as elsewhere. Commands stand in the order of their use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        from ...schema import BadMigration

        try:
            return super().invoke(ctx)
        except BadMigration as error:
            print_error(error)
            ctx.exit(MISTAKE)


@click.group(cls=_Group)
def migrate() -> None:
    """Change the schema of the whole fleet with plain SQL files.

    Files are in dbmate's format, in the folder `migrations` or, when only that is there, `db/migrations`. Each shard's
    own table shardpool.migrations says what is applied there.
    """


for _command in (new, lint, plan, up, status, down, baseline, verify, drift, repair, execute, provision):
    migrate.add_command(_command)
