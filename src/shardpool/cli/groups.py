"""A group of commands that answers a name which it does not have with the nearest that it has."""

from __future__ import annotations

import click


class Group(click.Group):
    """`click.Group`, but that a typo is told what was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            close = get_close_matches(name, known, n=2)
            hint = f" Did you mean {' or '.join(close)}?" if close else f" Commands: {', '.join(known)}."
            raise click.UsageError(f"there is no command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)
