"""Taking over what is there already: migrations are marked as applied without being run, or another tool's history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import AsyncConnection

from ..errors import BadMigration, MigrationError
from .files import Folder, Migration
from .session import one, rows_of

# Of each tool: its table, and a query for version and name of all that it has applied.
_HISTORIES: Mapping[str, tuple[str, str]] = {
    "dbmate": (
        "schema_migrations",
        "SELECT version::pg_catalog.text, version::pg_catalog.text FROM schema_migrations ORDER BY 1",
    ),
    "alembic": (
        "alembic_version",
        "SELECT pg_catalog.concat('alembic:', version_num), version_num FROM alembic_version ORDER BY 1",
    ),
    "django": (
        "django_migrations",
        "SELECT pg_catalog.concat('django:', app, '.', name), pg_catalog.concat(app, '.', name) "
        "FROM django_migrations ORDER BY id",
    ),
}

TOOLS = tuple(_HISTORIES)
TABLES = tuple(table for table, _ in _HISTORIES.values())
"""The tables of other tools, which are not compared between shards."""


async def history(conn: AsyncConnection[Any], shard: str, tool: str) -> tuple[tuple[str, str], ...]:
    """Version and name of everything that the tool says it has applied; raises `MigrationError` without its table."""
    table, query = _HISTORIES[tool]
    if not (await one(conn, "SELECT pg_catalog.to_regclass(%s) IS NOT NULL", (table,)))[0]:
        raise MigrationError(f"it has no table {table}")
    return tuple((version, name) for version, name in await rows_of(conn, query))


def same(history_by_shard: Mapping[str, Sequence[tuple[str, str]]], tool: str) -> None:
    """Raise `BadMigration` when the shards are not all at the same place in that tool's history."""
    histories = {shard: set(history) for shard, history in history_by_shard.items()}
    everywhere = set.union(*histories.values()) if histories else set()
    missing = {shard: sorted(name for _, name in everywhere - history) for shard, history in histories.items()}
    complaints = [f"{shard} lacks {', '.join(names[:5])}" for shard, names in missing.items() if names]
    if complaints and tool == "alembic":
        # Its table holds the last revision only.
        complaints = [
            f"{shard} is at {', '.join(sorted(name for _, name in history))}" for shard, history in histories.items()
        ]
    if complaints:
        raise BadMigration(
            f"the shards are not at the same place in the history of {tool}",
            detail="; ".join(complaints) + ".",
            hint=f"Bring them there with {tool}: shardpool migrate exec -- …",
        )


def stamped(folder: Folder, versions: Sequence[str] | None, to: str | None) -> tuple[Migration, ...]:
    """The files that are marked: those of `versions`, or all up to `to`, or all."""
    if versions is not None:
        known = {migration.version for migration in folder.migrations}
        unknown = [version for version in versions if version not in known]
        if unknown:
            raise BadMigration(
                f"{len(unknown)} applied migrations have no file in {folder.path}",
                detail=f"{', '.join(unknown[:5])}.",
                hint="Point --dir at the folder that dbmate uses.",
            )
        return tuple(migration for migration in folder.migrations if migration.version in versions)
    if to is None:
        return folder.migrations
    return folder.migrations[: folder.migrations.index(folder.find(to)) + 1]
