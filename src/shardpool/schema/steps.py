"""A file that is not one transaction, as steps: what can be done all or not at all, and what a killed one leaves. Pure.

Each statement is a step; what stands between BEGIN and COMMIT is one. PostgreSQL runs most statements within a
transaction, and such a step is recorded in its own. The others are of kinds of which a look tells how far they came.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import psycopg

from ..errors import BadMigration, UnsupportedQuery
from ..query.text.scanner import Scanner, split
from .files import Migration, MigrationBlock

Kind = Literal["atomic", "create index", "drop index", "reindex", "detach", "again", "set", "unsure"]
"""How a step is run, and what is done when it is not known how it ended.

`atomic`: in a transaction with its record. The others run bare: the named ones are looked at, `again` does no harm when
it is done twice, `set` is of the session and made again in the session that goes on, and of `unsure` nobody can tell.
"""

_BEGINS = ("begin", "start")
_ENDS = ("commit", "end")
_LEADING = re.compile(r"\A(?:\s+|--[^\n]*(?:\n|\Z)|/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/)+")
_CONTROL = (*_BEGINS, *_ENDS, "rollback", "abort", "savepoint", "release")


@dataclass(frozen=True, slots=True)
class Step:
    """One or several statements; `number` counts from 1, `line` is that of the file.

    `schema`, `name` and `table` are of the index or partition that the step is about, unquoted; empty when it has none.
    """

    number: int
    sql: str
    line: int
    kind: Kind = "atomic"
    schema: str = ""
    name: str = ""
    table: str = ""
    table_schema: str = ""

    @property
    def is_concurrent(self) -> bool:
        """Whether it waits for other transactions while it holds no lock that hurts them."""
        return self.kind in ("create index", "drop index", "reindex", "detach")

    @property
    def summary(self) -> str:
        """The beginning of its text in one line."""
        return shortened(self.sql)


def shortened(text: str, width: int = 80) -> str:
    """A text in one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def check(migration: Migration) -> None:
    """Raise `BadMigration` for a block that cannot be run as it is meant."""
    for block in filter(None, (migration.up, migration.down)):
        listed = list(statements(block))
        _check_end(migration, listed)
        for statement, line in listed:
            _check_text(f"{migration.file}:{line}", statement)
            if block.transactional:
                _check_transactional(f"{migration.file}:{line}", statement)
            if migration.routed:
                _check_routed(f"{migration.file}:{line}", statement)
        if not block.transactional:
            steps(migration.file, block)


def _check_end(migration: Migration, listed: Sequence[tuple[str, int]]) -> None:
    """What is not closed goes on to the end, so that it is in the last statement."""
    if not listed:
        return
    statement, line = listed[-1]
    scanner = Scanner()
    for _ in scanner.feed(statement + "\n"):
        pass
    if scanner.inside:
        raise BadMigration(f"{migration.file}:{line}: {scanner.inside} is not closed")


def _check_text(where: str, statement: str) -> None:
    if statement.startswith("\\"):
        command = statement.split(maxsplit=1)[0]
        raise BadMigration(
            f"{where}: {command} is a command of psql", hint="A migration is sent to the server as it is."
        )
    if statement[:4].lower() == "copy" and _is_of_client(statement):
        raise BadMigration(
            f"{where}: COPY from or to the client, of which there is none",
            hint="Write INSERT, or load rows with: shardpool load TABLE FILE.csv",
        )


def _is_of_client(statement: str) -> bool:
    from ..query.text.statement import kind

    tree = parsed(statement)
    return tree is not None and kind(tree) == "CopyStmt" and not tree.filename and not tree.is_program


def _check_transactional(where: str, statement: str) -> None:
    word = _first_word(statement)
    if word in (*_BEGINS, *_ENDS, "rollback", "abort"):
        raise BadMigration(
            f"{where}: {word.upper()} in a migration that is one transaction already",
            hint="Take it out, or write: -- migrate:up transaction:false",
        )
    if "concurrently" in statement.lower() and _is_bare(statement):
        raise BadMigration(
            f"{where}: CONCURRENTLY cannot run in a transaction",
            hint="Write: -- migrate:up transaction:false",
        )


def _check_routed(where: str, statement: str) -> None:
    from ..query.text.statement import kind, verb

    tree = parsed(statement)
    if tree is None or kind(tree) not in _ROUTED:
        what = statement.split(maxsplit=1)[0].upper() if tree is None else verb(tree)
        raise BadMigration(
            f"{where}: {what} in a file that the router runs",
            hint="`-- shard: route` is for INSERT, UPDATE, DELETE and MERGE: put the rest in a file of its own.",
        )


_ROUTED = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "SelectStmt")


def _is_bare(statement: str) -> bool:
    return _classified(statement)[0] in ("create index", "drop index", "reindex", "detach")


@lru_cache(maxsize=512)
def steps(file: str, block: MigrationBlock) -> tuple[Step, ...]:
    """The steps of a block that is not one transaction."""
    made: list[Step] = []
    for sql, line, is_group in _grouped(file, block):
        facts: tuple[Any, ...] = ("atomic", "", "", "", "") if is_group else _classified(sql)
        kind, schema, name, table_schema, table = facts
        if kind == "create index" and not name:
            raise BadMigration(
                f"{file}:{line}: an index that is built CONCURRENTLY needs a name",
                detail="What a killed build leaves is found by its name.",
            )
        made.append(Step(len(made) + 1, sql, line, kind, schema, name, table, table_schema))
    return tuple(made)


def prefix_digest(parts: Sequence[Step], count: int) -> str:
    """The digest of the first `count` steps: those that are done must not be changed, the others may be mended."""
    text = "\0".join(" ".join(step.sql.split()) for step in parts[:count])
    return hashlib.sha256(text.encode()).hexdigest()


def _grouped(file: str, block: MigrationBlock) -> Iterator[tuple[str, int, bool]]:
    group: list[str] | None = None
    begun = 0
    for statement, line in statements(block):
        word = _first_word(statement)
        if word in _BEGINS and group is None:
            group, begun = [], line
        elif word in _ENDS and group is not None:
            if group:
                yield ";\n".join(group), begun, True
            group = None
        elif word in _CONTROL and (group is None or word in (*_BEGINS, "rollback", "abort")):
            raise BadMigration(f"{file}:{line}: {word.upper()} has no place here")
        elif group is not None:
            group.append(statement)
        else:
            yield statement, line, False
    if group is not None:
        raise BadMigration(f"{file}:{begun}: BEGIN without COMMIT")


def statements(block: MigrationBlock) -> Iterator[tuple[str, int]]:
    """Each statement, without the comments above it, with the line of the file on which it begins."""
    scanner = Scanner()
    begun = block.line
    for number, line in enumerate(block.sql.splitlines(keepends=True), block.line):
        if scanner.is_blank:
            begun = number
        for statement in scanner.feed(line):
            yield _LEADING.sub("", statement), begun
            begun = number
    if scanner.rest:
        yield _LEADING.sub("", scanner.rest), begun


def _first_word(statement: str) -> str:
    scanner = Scanner()
    for _ in scanner.feed(statement + "\n"):
        break
    return scanner.first_word


@lru_cache(maxsize=512)
def _classified(statement: str) -> tuple[Kind, str, str, str, str]:
    """Kind, schema and name of the index or partition, schema and name of its table."""
    from ..query.text.statement import kind

    tree = parsed(statement)
    if tree is None:
        return _unparsed(statement)
    match kind(tree):
        case "IndexStmt" if tree.concurrent:
            table = tree.relation
            return "create index", table.schemaname, tree.idxname, table.schemaname, table.relname
        case "DropStmt" if tree.concurrent:
            names = [part.string.sval for part in tree.objects[0].list.items]
            return "drop index", ".".join(names[:-1]), names[-1], "", ""
        case "ReindexStmt":
            concurrent = any(option.def_elem.defname == "concurrently" for option in tree.params)
            return ("reindex" if concurrent else "again"), tree.relation.schemaname, tree.relation.relname, "", ""
        case "AlterTableStmt":
            return _altered(tree)
        case "VariableSetStmt":
            return "set", "", "", "", ""
        case "VacuumStmt" | "ClusterStmt" | "AlterSystemStmt" | "CheckPointStmt" | "DiscardStmt":
            return "again", "", "", "", ""
        case "CreatedbStmt" | "DropdbStmt" | "CreateTableSpaceStmt" | "DropTableSpaceStmt":
            return "again", "", "", "", ""
        case "CreateSubscriptionStmt" | "AlterSubscriptionStmt" | "DropSubscriptionStmt":
            return "again", "", "", "", ""
        case "CallStmt" | "DoStmt":
            return "unsure", "", "", "", ""
    return "atomic", "", "", "", ""


def parsed(statement: str) -> Any:
    """The statement as PostgreSQL's parser reads it; None for syntax that it does not know."""
    from ..query.text.statement import parse

    try:
        trees = parse(statement)
    except (psycopg.Error, UnsupportedQuery):
        return None
    return trees[0] if len(trees) == 1 else None


def _altered(tree: Any) -> tuple[Kind, str, str, str, str]:
    for node in tree.cmds:
        command = node.alter_table_cmd
        partition = getattr(getattr(command, "def"), "partition_cmd", None)
        if partition is not None and partition.concurrent:
            child = partition.name
            return "detach", child.schemaname, child.relname, tree.relation.schemaname, tree.relation.relname
    return "atomic", "", "", "", ""


def _unparsed(statement: str) -> tuple[Kind, str, str, str, str]:
    """Of syntax that the parser does not know: tried in a transaction first, which the server may refuse."""
    return ("unsure" if _first_word(statement) in ("call", "do") else "atomic"), "", "", "", ""


def statement_count(block: MigrationBlock) -> int:
    """How many statements a block has."""
    return len(split(block.sql))
