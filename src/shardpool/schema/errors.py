"""What goes wrong with migrations, cut by what the caller does next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ShardpoolError

if TYPE_CHECKING:
    from .report import Report


class BadMigration(ShardpoolError):
    """The folder of migrations, or the call, has to be changed; nothing was sent to any shard."""


class MigrationError(ShardpoolError):
    """A migration did not get to its end on every shard. `report` says how far each has come, where that is known."""

    def __init__(
        self, message: str, *, detail: str | None = None, hint: str | None = None, report: Report | None = None
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.report = report
