"""What a shard knows of migrations: the SQL of `shardpool.migrations` and its rows as values. No I/O.

A row is written in the transaction of what it tells of, wherever PostgreSQL allows that; where it does not, before and
after each step. So whatever is killed, the rows say what is applied, or which one step has to be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from ..control.locks import LOCK_CLASS
from ..control.own_sql import qualified

RUNNER_LOCK = -2
"""Held by the runner of a shard, on a connection of its own, from before its first look to its end."""

WORKER_LOCK = -3
"""Held by the session that runs the statements: its server may go on with one when its runner was killed."""

Status = Literal["applied", "baseline", "partial", "failed"]
Direction = Literal["up", "down"]

INSTALLED = "SELECT pg_catalog.to_regclass('shardpool.migrations') IS NOT NULL"

INSTALL = f"""
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT pg_catalog.pg_advisory_xact_lock({LOCK_CLASS}, -1);
CREATE SCHEMA IF NOT EXISTS shardpool;
CREATE TABLE IF NOT EXISTS shardpool.migrations (
  version text PRIMARY KEY,
  name text NOT NULL,
  checksum text,
  status text NOT NULL CHECK (status IN ('applied', 'baseline', 'partial', 'failed')),
  direction text NOT NULL DEFAULT 'up' CHECK (direction IN ('up', 'down')),
  steps integer NOT NULL DEFAULT 1,
  steps_done integer NOT NULL DEFAULT 0,
  step_begun boolean NOT NULL DEFAULT false,
  done_digest text,
  started_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
  finished_at timestamptz,
  seconds double precision,
  applied_by text,
  tool text,
  epoch bigint,
  origin text,
  error text
);
COMMENT ON TABLE shardpool.migrations IS
  'what is applied here; step_begun: the step after steps_done was begun, and how it ended is not known';
CREATE TABLE IF NOT EXISTS shardpool.migration_log (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  version text NOT NULL,
  event text NOT NULL,
  step integer,
  seconds double precision,
  detail text,
  done_by text
);
COMMENT ON TABLE shardpool.migration_log IS 'what was done to shardpool.migrations, in order; only ever added to';
GRANT USAGE ON SCHEMA shardpool TO PUBLIC;
GRANT SELECT ON shardpool.migrations, shardpool.migration_log TO PUBLIC;
"""

READ = """
SELECT version, name, checksum, status, direction, steps, steps_done, step_begun, done_digest, started_at, finished_at,
  seconds, applied_by, origin, error
FROM shardpool.migrations
"""

WRITE = """
INSERT INTO shardpool.migrations AS m (version, name, checksum, status, direction, steps, steps_done, step_begun,
  done_digest, started_at, finished_at, seconds, applied_by, tool, epoch, origin, error)
VALUES (%(version)s, %(name)s, %(checksum)s, %(status)s, %(direction)s, %(steps)s, %(steps_done)s, %(step_begun)s,
  %(done_digest)s, pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)
    pg_catalog.make_interval(secs => coalesce(%(seconds)s, 0)),
  CASE WHEN %(status)s OPERATOR(pg_catalog.=) ANY (ARRAY['applied', 'baseline']) THEN pg_catalog.clock_timestamp() END,
  %(seconds)s, %(applied_by)s, %(tool)s, %(epoch)s, %(origin)s, %(error)s)
ON CONFLICT (version) DO UPDATE SET (name, checksum, status, direction, steps, steps_done, step_begun, done_digest,
  finished_at, seconds, applied_by, tool, epoch, origin, error) = (excluded.name, excluded.checksum, excluded.status,
  excluded.direction, excluded.steps, excluded.steps_done, excluded.step_begun, excluded.done_digest,
  excluded.finished_at, excluded.seconds, excluded.applied_by, excluded.tool, excluded.epoch, excluded.origin,
  excluded.error)
"""

REMOVE = qualified("DELETE FROM shardpool.migrations WHERE version = %(version)s")

LOG = """
INSERT INTO shardpool.migration_log (version, event, step, seconds, detail, done_by)
VALUES (%(version)s, %(event)s, %(step)s, %(seconds)s, %(detail)s, %(by)s)
"""


# Not by the view pg_stat_activity, which asks this very function, and for the names of databases and roles besides: to
# plan that takes a new session longer than all else that it is asked.
_HOLDERS = qualified("""
    (pg_catalog.pg_locks l CROSS JOIN LATERAL pg_catalog.pg_stat_get_activity(l.pid) a)
      ON l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
      AND l.classid::bigint = {group}::bigint AND l.objid::bigint = {number}::bigint
      AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
""")


def _holders(number: int) -> str:
    return _HOLDERS.format(group=LOCK_CLASS, number=2**32 + number)


def holders(number: int) -> str:
    """A query for who holds one of the locks: pid of the server, application, since when it is connected."""
    return f"SELECT a.pid, a.application_name, a.backend_start FROM (VALUES (1)) AS one JOIN {_holders(number)}"


INSTALLED_AND_RUNNING = f"""
SELECT pg_catalog.to_regclass('shardpool.migrations') IS NOT NULL, a.pid, a.application_name, a.backend_start
FROM (VALUES (1)) AS one LEFT JOIN {_holders(RUNNER_LOCK)}
"""
"""`INSTALLED`, and who holds the lock of the runner: NULLs when nobody does."""


def try_lock(number: int) -> str:
    """A query for whether the lock was had, at once: one who waits in a query would hold up CONCURRENTLY."""
    return f"SELECT pg_catalog.pg_try_advisory_lock({LOCK_CLASS}, {number})"


@dataclass(frozen=True, slots=True)
class MigrationRow:
    """One migration on one shard. `origin` is the tool from whose history it was taken over."""

    version: str
    name: str
    checksum: str | None
    status: Status
    direction: Direction = "up"
    steps: int = 1
    steps_done: int = 0
    step_begun: bool = False
    done_digest: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    seconds: float | None = None
    applied_by: str | None = None
    origin: str | None = None
    error: str | None = None

    @property
    def is_applied(self) -> bool:
        return self.status in ("applied", "baseline")

    @property
    def describe(self) -> str:
        """Its state in a few words."""
        if self.status in ("applied", "baseline"):
            return self.status
        way = "" if self.direction == "up" else "down, "
        if self.steps > 1 or self.step_begun:
            doing = f"step {self.steps_done + 1} of {self.steps}"
            return f"{way}{doing} {'was begun' if self.step_begun else self.status}"
        return f"{way}{self.status}"


@dataclass(frozen=True, slots=True)
class LockHolder:
    """Who migrates a shard now."""

    pid: int
    application: str
    since: datetime


@dataclass(frozen=True, slots=True)
class ShardState:
    """What one shard said: its rows by version, and who migrates it now. `error` is why it said nothing."""

    shard: str
    rows: Mapping[str, MigrationRow]
    installed: bool = True
    running: LockHolder | None = None
    error: BaseException | None = None


def rows_by_version(rows: Iterable[Sequence[Any]]) -> dict[str, MigrationRow]:
    """The rows of `READ`."""
    return {row[0]: MigrationRow(*row) for row in rows}
