"""Files of migrations, in dbmate's format: text in, values out. Pure but for `read_folder`.

::

    -- migrate:up [transaction:false]
    -- shard: phase=contract lock_timeout=500ms only=s0,s1 rows=each
    -- shard-assert: select count(*) = 0 from orders where total is null
    alter table orders alter total set not null;

    -- migrate:down
    alter table orders alter total drop not null;

What dbmate does not know stands in comments, so that its folders and ours are the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import BadMigration

Phase = Literal["expand", "contract"]

FILE_NAME = re.compile(r"(?P<version>\d+)(?P<name>.*)\.sql")
_UP = re.compile(r"^--\s*migrate:up(?:[ \t]*$|[ \t]+\S.*$)", re.MULTILINE)
_DOWN = re.compile(r"^--\s*migrate:down(?:[ \t]*$|[ \t]+\S.*$)", re.MULTILINE)
_DIRECTIVE = re.compile(r"[ \t]*--[ \t]*(shard|shard-assert|shard-verify):[ \t]*(.*?)[ \t]*")
_BLANK_LINE = re.compile(r"\s*(--.*)?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|min|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, None: 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
# PostgreSQL counts milliseconds in 32 bits.
_LONGEST = 24 * 86400.0
_KNOWN = ("phase", "lock_timeout", "statement_timeout", "only", "rows", "route")


@dataclass(frozen=True, slots=True)
class MigrationBlock:
    """One direction of a file: its SQL, with the line (1-based) on which it begins, and how it is to be run.

    Times are in seconds; None leaves them to the caller. `line` is that of the directive.
    """

    sql: str
    line: int
    transactional: bool = True
    lock_timeout: float | None = None
    statement_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `only` are patterns of shards, empty for all; `asserts` and `verifies` are queries that give true.

    The statements of a `routed` one are run once, by the router. With `rows="each"` every shard writes rows as it
    stands there, which would else be refused.
    """

    version: str
    name: str
    file: str
    checksum: str
    up: MigrationBlock
    down: MigrationBlock | None = None
    phase: Phase = "expand"
    only: tuple[str, ...] = ()
    asserts: tuple[str, ...] = ()
    verifies: tuple[str, ...] = ()
    routed: bool = False
    rows: str = ""

    @property
    def label(self) -> str:
        """The name of the file without its `.sql`, by which people know it."""
        return self.file.removesuffix(".sql")


@dataclass(frozen=True, slots=True)
class Folder:
    """All migrations in their order, and what is wrong with their `migrations.sum`, empty when all is well.

    `others` are files of SQL whose names begin with no version: they are not run, as dbmate does not run them.
    """

    path: str
    migrations: tuple[Migration, ...]
    has_sum: bool = False
    sum_problems: tuple[str, ...] = field(default=())
    others: tuple[str, ...] = ()

    def find(self, version: str) -> Migration:
        """A migration by its version, its name, or its file; raises `BadMigration`."""
        wanted = version.removesuffix(".sql")
        for migration in self.migrations:
            if wanted in (migration.version, migration.label, migration.name):
                return migration
        raise BadMigration(f"no migration {version} in {self.path}", hint="See: shardpool migrate status")


def read_folder(path: str | Path) -> Folder:
    """The migrations of a folder, and its sum file compared; raises `BadMigration` for what cannot be read."""
    from . import sums

    folder = Path(path)
    if not folder.is_dir():
        raise BadMigration(
            f"there is no folder {folder}", hint="Make the first migration with: shardpool migrate new NAME"
        )
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and entry.name.endswith(".sql"))
    others = tuple(name for name in names if not FILE_NAME.fullmatch(name))
    migrations = tuple(parse(name, _read(folder / name)) for name in names if name not in others)
    by_version: dict[str, str] = {}
    for migration in migrations:
        other = by_version.setdefault(migration.version, migration.file)
        if other != migration.file:
            raise BadMigration(
                f"{other} and {migration.file} have the same version", hint="Rename the later one, with a later time."
            )
    summed = folder / sums.FILE
    if not summed.exists():
        return Folder(str(folder), migrations, others=others)
    problems = sums.problems(summed.read_text(encoding="utf-8"), {m.file: m.checksum for m in migrations})
    return Folder(str(folder), migrations, True, tuple(problems), others)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadMigration(f"{path.name} cannot be read", detail=str(error)) from error


def checksum(text: str) -> str:
    """The sha256 of a file, whatever its line ends, its byte order mark and the blank lines at its end."""
    normal = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").rstrip() + "\n"
    return hashlib.sha256(normal.encode()).hexdigest()


def parse(file: str, text: str) -> Migration:
    """The migration in a file's text; raises `BadMigration` with the line that is to blame."""
    match = FILE_NAME.fullmatch(file)
    if match is None:
        raise BadMigration(f"{file} is not named like 20260131093000_add_status.sql")
    up, down, head = _blocks(file, text.replace("\r\n", "\n").replace("\r", "\n"))
    # The directive's own line stands between the two as an empty one.
    directives = _directives(file, head + up[2], 1)
    below = _directives(file, down[2], down[1]) if down is not None else {}
    return Migration(
        version=match["version"],
        name=match["name"].lstrip("_-"),
        file=file,
        checksum=checksum(text),
        up=_block(up, directives.get("shard", {}), {}),
        down=_block(down, below.get("shard", {}), directives.get("shard", {})) if down is not None else None,
        phase="contract" if directives.get("shard", {}).get("phase") == "contract" else "expand",
        only=tuple(filter(None, directives.get("shard", {}).get("only", "").split(","))),
        asserts=tuple(directives.get("shard-assert", {})),
        verifies=tuple(directives.get("shard-verify", {})),
        routed="route" in directives.get("shard", {}),
        rows=directives.get("shard", {}).get("rows", ""),
    )


# The line of the directive itself, its number, and what stands below it.
_Part = tuple[str, int, str]


def _blocks(file: str, text: str) -> tuple[_Part, _Part | None, str]:
    up = _UP.search(text)
    if up is None:
        raise BadMigration(f"{file} has no line `-- migrate:up`", hint="What is to be done stands below that line.")
    down = _DOWN.search(text)
    if down is not None and down.start() < up.start():
        raise BadMigration(f"{file} has `-- migrate:down` before `-- migrate:up`")
    for directive, first in ((_UP, up), (_DOWN, down)):
        second = directive.search(text, first.end()) if first is not None else None
        if second is not None:
            # dbmate's manual has such files. What it makes of them, as of 2.36: it stops after the first part.
            raise BadMigration(
                f"{file}:{text.count(chr(10), 0, second.start()) + 1}: a second `{second.group().strip()}`",
                hint="Make two files of it.",
            )
    head = text[: up.start()]
    for number, line in enumerate(head.split("\n"), 1):
        if not _BLANK_LINE.fullmatch(line):
            raise BadMigration(f"{file}:{number}: a statement before `-- migrate:up`")
    end = down.start() if down is not None else len(text)
    below = None
    if down is not None:
        below = (down.group(), text.count("\n", 0, down.start()) + 1, text[down.end() :])
    return (up.group(), text.count("\n", 0, up.start()) + 1, text[up.end() : end]), below, head


def _block(part: _Part, directives: Mapping[str, str], inherited: Mapping[str, str]) -> MigrationBlock:
    line, number, sql = part
    options = dict(pair.split(":", 1) for pair in line.split() if pair.count(":") == 1 and "migrate:" not in pair)
    times = {key: directives.get(key, inherited.get(key)) for key in ("lock_timeout", "statement_timeout")}
    return MigrationBlock(
        sql=sql,
        line=number,
        transactional=options.get("transaction") != "false" and "route" not in {**directives, **inherited},
        **{key: None if value is None else seconds(value) for key, value in times.items()},
    )


def _directives(file: str, text: str, number: int) -> dict[str, dict[str, str]]:
    """What the comments above the first statement say: of `shard` its settings, of the others queries, as keys.

    `number` is that of the first line of the text.
    """
    settings: dict[str, dict[str, str]] = {}
    for at, line in enumerate(text.split("\n"), number):
        if not _BLANK_LINE.fullmatch(line):
            break
        match = _DIRECTIVE.fullmatch(line)
        if match is None:
            continue
        kind, rest = match.groups()
        if kind == "shard":
            settings.setdefault(kind, {}).update(_settings(f"{file}:{at}", rest))
        elif rest:
            settings.setdefault(kind, {})[rest.rstrip(";")] = ""
    return settings


def _settings(where: str, text: str) -> Iterator[tuple[str, str]]:
    for word in text.split():
        key, equals, value = word.partition("=")
        if key not in _KNOWN or bool(equals) is (key == "route"):
            raise BadMigration(f"{where}: `-- shard:` does not know {word}", hint=f"Known: {', '.join(_KNOWN)}.")
        if key == "phase" and value not in ("expand", "contract"):
            raise BadMigration(f"{where}: phase is expand or contract, not {value}")
        if key == "rows" and value != "each":
            raise BadMigration(f"{where}: rows is each, not {value}")
        if key.endswith("timeout"):
            try:
                seconds(value)
            except BadMigration as error:
                raise BadMigration(f"{where}: {error.message}") from None
        yield key, value


def seconds(text: str) -> float:
    """`500ms`, `2s`, `5min`, `1h` or a bare number, in seconds; raises `BadMigration`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise BadMigration(f"{text} is not a time like 500ms, 2s, 5min or 1h")
    value = float(match[1]) * _SECONDS[match[2]]
    if value > _LONGEST:
        raise BadMigration(f"{text} is longer than PostgreSQL counts, 24 days")
    return value
