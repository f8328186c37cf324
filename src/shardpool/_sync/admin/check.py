# Generated from _async/admin/check.py by tools/unasync.py: edit that one, then run `make sync`.
"""`check`: the fleet as it is against the topology. Reads only, on connections of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import Connection, sql
from psycopg.rows import tuple_row

from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.tasks import run_all, sleep
from ...config import file_findings
from ...control.buckets import held_buckets
from ...control.commitment import COMMITMENT, commitment_findings
from ...control.contract import self_test_query
from ...control.identity import IDENTITY_QUERY, NOT_INSTALLED_HINT, Identity, check_identity, map_problem, tells_maps
from ...control.roles import ROLE, role_findings
from ...control.rows import misplaced_rows_query
from ...control.stored_facts import STORED_FACTS, StoredFacts, stored_facts, stored_findings
from ...control.tables import (
    TABLE_FACTS,
    Copies,
    TableFacts,
    compare_copies,
    compare_tables,
    table_facts,
    table_findings,
)
from ...control.transactions import prefix_of
from ...errors import ShardError, first_line
from ...report import Finding, Report
from ...server_budget import LIMITS, LIMITS_WITHOUT_SYSTEM, ServerLimits, budget_findings, budgets, limits
from ...topology import Endpoint, Keyspace, Topology
from .effects import effects
from .positions import positions

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet
    from ..fleet.pools import EndpointPool
    from ..fleet.shards import ShardPools

OLDEST_VERSION = 14
_LAG_SECONDS = 1.0
_LAG_PAUSE = 0.05
# Seconds in which the primary among nodes is found, though others of them do not answer.
_PRIMARY_SECONDS = 3.0

_SERVER = """
    select pg_catalog.current_setting('server_version_num')::int, pg_catalog.pg_is_in_recovery(),
           pg_catalog.pg_encoding_to_char(d.encoding)
    from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()
"""


_COPY = """
    select pg_catalog.count(*), coalesce(pg_catalog.sum(pg_catalog.hashtextextended(t::text, 0)::numeric), 0)::text
    from {} t
"""
_BOUNDED = "select pg_catalog.set_config('statement_timeout', %s, false)"
_UNFINISHED = """
    select epoch, author, pg_catalog.to_char(begun_at, 'YYYY-MM-DD HH24:MI:SS TZ'),
      pg_catalog.split_part(change, E'\\n', 1)
    from shardpool.history where outcome = 'begun' order by epoch
"""
_OWNERS = "select keyspace, first_bucket, last_bucket, shard from shardpool.owner"


def check(fleet: Fleet, rows: bool, timeout: float, processes: int) -> Report:
    """See `Router.check`."""
    fleet.check_usable()
    topology = fleet.topology
    deadline = deadline_after(timeout)
    unreached: set[str] = set()
    limits_by_endpoint: dict[str, ServerLimits] = {}
    checks = [
        partial(_check_endpoint, fleet, topology, name, endpoint, deadline, rows, unreached, limits_by_endpoint)
        for name, shard in topology.shards.items()
        for endpoint in shard.endpoints
    ]
    findings: list[Finding] = []
    facts_by_shard: dict[str, Mapping[str, TableFacts]] = {}
    copies_by_shard: dict[str, Copies] = {}
    stored_by_shard: dict[str, Mapping[str, StoredFacts]] = {}
    collected = [partial(_collect, one, findings, facts_by_shard, copies_by_shard, stored_by_shard) for one in checks]
    for _, error in run_all(collected):
        if error is not None:
            raise error
    findings.extend(file_findings(fleet.path, topology))
    findings.extend(_running(topology))
    findings.extend(compare_tables(topology, facts_by_shard))
    findings.extend(compare_copies(topology, copies_by_shard))
    findings.extend(stored_findings(topology, stored_by_shard))
    findings.extend(_lags(fleet, deadline, unreached))
    order = {name: number for number, name in enumerate(topology.shards)}
    limits = [limits_by_endpoint[subject] for subject in _subjects(topology) if subject in limits_by_endpoint]
    findings.extend(budget_findings(limits, processes))
    findings = list(dict.fromkeys(findings))
    findings.sort(key=lambda finding: order.get(finding.subject.split("/")[0], len(order)))
    return Report(topology.fleet, topology.epoch, tuple(findings), tuple(budgets(limits, processes)))


def _running(topology: Topology) -> Iterator[Finding]:
    """Moves of rows that are not over: until then nobody else edits what they move."""
    for number, move in topology.moves.items():
        what = f"{move.what}, {move.source} → {move.target}, is {move.state}"
        yield Finding("warning", f"move {number}", what, f"See: shardpool move status {number}")


def _subjects(topology: Topology) -> list[str]:
    return [f"{name}/{endpoint.name}" for name, shard in topology.shards.items() for endpoint in shard.endpoints]


def _lags(fleet: Fleet, deadline: Deadline, unreached: Collection[str]) -> list[Finding]:
    """How far each replica is behind, by the router's own gauge; given a second to catch up with where it is asked."""
    findings: list[Finding] = []
    for name, pools in fleet.snapshot.shards.items():
        _primary_found(pools, deadline)
        subjects = {replica: f"{name}/{replica.endpoint.name}" for replica in pools.replicas}
        known = f"{name}/{pools.primary.endpoint.name}" not in unreached
        asked = [replica for replica, subject in subjects.items() if known and subject not in unreached]
        late = _late(pools, asked, deadline)
        for replica, subject in subjects.items():
            if replica in asked:
                findings.append(
                    _lag_finding(subject, replica, pools.lag.seconds(replica.endpoint.name), replica in late)
                )
            elif subject in unreached:
                findings.append(Finding("warning", subject, "cannot be reached: not read from"))
            else:
                what = "its lag is not known, for its primary cannot be reached: not read from"
                findings.append(Finding("warning", subject, what))
    return findings


def _primary_found(pools: ShardPools, deadline: Deadline) -> None:
    """Of nodes of which one is the primary it is known which, as soon as they tell: it need not be the first."""
    until = min(deadline, monotonic() + _PRIMARY_SECONDS)
    while pools.leaderless and monotonic() < until:
        pools.check_now()
        sleep(_LAG_PAUSE)


def _late(pools: ShardPools, replicas: Sequence[EndpointPool], deadline: Deadline) -> list[EndpointPool]:
    """Those that are not within their limits after a second."""
    until = min(deadline, monotonic() + _LAG_SECONDS)
    late = list(replicas)
    while late and monotonic() < until:
        pools.check_now()
        sleep(_LAG_PAUSE)
        late = [replica for replica in late if not pools.is_fresh(replica)]
    return late


def _lag_finding(subject: str, replica: EndpointPool, lag: float, late: bool) -> Finding:
    if not late:
        return Finding("ok", subject, f"is at most {max(lag, 0.01):.2f} s behind its primary")
    limit = f"{replica.endpoint.max_lag:g} s" if replica.endpoint.max_lag is not None else "now"
    return Finding("warning", subject, f"is further behind its primary than {limit}: not read from")


def _collect(
    one: Any,
    findings: list[Finding],
    facts_by_shard: dict[str, Mapping[str, TableFacts]],
    copies_by_shard: dict[str, Copies],
    stored_by_shard: dict[str, Mapping[str, StoredFacts]],
) -> None:
    about_server, shard, facts, copies, stored = one()
    findings.extend(about_server)
    if facts is not None:
        facts_by_shard[shard] = facts
        copies_by_shard[shard] = copies
        stored_by_shard[shard] = stored


def _check_endpoint(
    fleet: Fleet,
    topology: Topology,
    name: str,
    endpoint: Endpoint,
    deadline: Deadline,
    rows: bool,
    unreached: set[str],
    limits_by_endpoint: dict[str, ServerLimits],
) -> tuple[list[Finding], str, Mapping[str, TableFacts] | None, Copies, Mapping[str, StoredFacts]]:
    """The findings on one endpoint, and what a primary tells of its tables and of its copies of reference tables.

    `unreached` has it until it answers; then `limits_by_endpoint` has what its server gives, but behind a pooler.
    """
    subject = f"{name}/{endpoint.name}"
    unreached.add(subject)
    findings: list[Finding] = []
    facts: Mapping[str, TableFacts] | None = None
    copies: Copies = {}
    stored: Mapping[str, StoredFacts] = {}
    try:
        with fleet.dialer.dialed(topology, name, deadline, endpoint) as conn:
            server = _one(conn, _SERVER)
            unreached.discard(subject)
            findings.extend(_server_findings(server, subject, endpoint))
            findings.extend(role_findings(_one(conn, ROLE), subject))
            if endpoint.pooler == "none":
                row = _limits(conn)
                limits_by_endpoint[subject] = limits(name, endpoint.address, endpoint.pool.max_size, row)
            if endpoint.is_written or (endpoint.is_asked and not server[1]):
                facts = _tables(conn, topology)
                if topology.control == "required":
                    findings.extend(_control(conn, topology, name, subject))
                    row = _one(conn, COMMITMENT, (prefix_of(topology.fleet),))
                    findings.extend(commitment_findings(row, topology, name, endpoint))
                findings.extend(table_findings(topology, name, facts))
                stored = _stored(conn, topology)
                stored = positions(conn, stored, deadline) if rows else stored
                findings.extend(effects(conn, topology, name))
                if rows:
                    tables = [table for table in topology.reference_tables if table in facts]
                    copies = _copies(conn, name, tables, deadline, findings)
                if rows and topology.control == "required" and not any(f.level == "error" for f in findings):
                    findings.extend(_rows(conn, topology, name, facts))
    except (psycopg.Error, ShardError) as error:
        said = error.__cause__ if isinstance(error.__cause__, psycopg.Error) else error
        findings.append(Finding("error", subject, f"{endpoint.address}: {first_line(said)}"))
    return findings, name, facts, copies, stored


def _limits(conn: Connection[Any]) -> Any:
    try:
        return _one(conn, LIMITS)
    except psycopg.errors.InsufficientPrivilege:
        return _one(conn, LIMITS_WITHOUT_SYSTEM)


def _copies(
    conn: Connection[Any], shard: str, tables: Sequence[str], deadline: Deadline, findings: list[Finding]
) -> Copies:
    """The copies of reference tables, each in half of the time that is left: a huge one is told, and keeps nobody."""
    copies: dict[str, tuple[int, str]] = {}
    for table in tables:
        conn.execute(_BOUNDED, (f"{max(1, int((deadline - monotonic()) * 500))}ms",))
        try:
            copies[table] = _copy(conn, table)
        except psycopg.errors.QueryCanceled:
            hint = "Give the check more time."
            what = "its rows were not compared with those of the other copies: they were not read in time"
            findings.append(Finding("warning", f"{shard}/{table.removeprefix('public.')}", what, hint))
    conn.execute(_BOUNDED, ("0",))
    return copies


def _copy(conn: Connection[Any], table: str) -> tuple[int, str]:
    """How many rows a table has, and a digest of them that does not depend on their order."""
    query = sql.SQL(_COPY).format(sql.Identifier(*table.split(".", 1)))
    row = _one(conn, query)
    return row[0], row[1]


def _one(conn: Connection[Any], query: Any, params: Sequence[Any] | None = None) -> Any:
    cursor = conn.cursor(row_factory=tuple_row)
    cursor.execute(query, params)
    return cursor.fetchone()


def _server_findings(row: Any, subject: str, endpoint: Endpoint) -> Iterator[Finding]:
    version, in_recovery, encoding = row
    role = "replica" if in_recovery else "primary"
    yield Finding("ok", subject, f"{endpoint.address}: PostgreSQL {version // 10000}.{version % 10000}, {role}")
    if version // 10000 < OLDEST_VERSION:
        yield Finding("error", subject, f"PostgreSQL {OLDEST_VERSION} or later is needed")
    if not endpoint.is_asked and endpoint.role != role:
        hint = "Correct the topology, or let several nodes be told apart by asking: `hosts:`."
        yield Finding("error", subject, f"declared as {endpoint.role}, but it is a {role}", hint)
    if encoding != "UTF8":
        yield Finding("error", subject, f"database encoding is {encoding}", "Keys are hashed as UTF-8: use UTF8.")


def _control(conn: Connection[Any], topology: Topology, name: str, subject: str) -> list[Finding]:
    """Identity, hash contract, owners, and whether the server's own bucket functions still give what they must."""
    try:
        row = _one(conn, IDENTITY_QUERY)
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return [Finding("error", subject, "its server carries no shardpool schema", NOT_INSTALLED_HINT)]
    problem = check_identity(row, topology, name)
    if problem is not None:
        return [Finding("error", subject, problem)]
    missing = [keyspace for keyspace in topology.keyspaces if keyspace not in row[4]]
    if missing:
        what = f"keyspace {', '.join(missing)} is not installed"
        return [Finding("error", subject, what, NOT_INSTALLED_HINT)]
    findings: list[Finding] = []
    (mismatches,) = _one(conn, self_test_query(topology))
    if mismatches:
        message = f"its bucket functions give {mismatches} wrong answers for the frozen vectors"
        findings.append(Finding("error", subject, message, NOT_INSTALLED_HINT))
    unfinished = _unfinished(conn, subject)
    cursor = conn.cursor(row_factory=tuple_row)
    cursor.execute(_OWNERS)
    owners = cursor.fetchall()
    if unfinished:
        # Which says itself what is to be done.
        findings.extend(_owner_findings(topology, subject, owners, None))
    else:
        _, hint = map_problem(row, topology) or (None, NOT_INSTALLED_HINT)
        findings.extend(_owner_findings(topology, subject, owners, hint))
        findings.extend(_map_findings(row, topology, subject, findings))
    return [*findings, *unfinished]


def _unfinished(conn: Connection[Any], subject: str) -> list[Finding]:
    """Edits of the topology that were begun here: while one is under way this is as it should be."""
    if not (_one(conn, "select pg_catalog.to_regclass('shardpool.history') is not null"))[0]:
        return []
    cursor = conn.cursor(row_factory=tuple_row)
    cursor.execute(_UNFINISHED)
    hint = "If it is not under way: run that command again, it goes on. See shardpool topology history."
    return [
        Finding(
            "warning",
            subject,
            f"the edit to epoch {epoch} ({change}), begun by {author} at {when}, is not finished",
            hint,
        )
        for epoch, author, when, change in cursor.fetchall()
    ]


def _owner_findings(topology: Topology, subject: str, owners: Sequence[Any], hint: str | None) -> Iterator[Finding]:
    """Owners that the topology has otherwise."""
    for keyspace in topology.keyspaces.values():
        stored = {
            bucket: shard
            for space, first, last, shard in owners
            if space == keyspace.name
            for bucket in range(first, last + 1)
        }
        differing = sum(stored.get(bucket) != shard for bucket, shard in enumerate(keyspace.shard_by_bucket))
        if differing:
            yield Finding(
                "error",
                subject,
                f"the owners of {differing} buckets of keyspace {keyspace.name} are others there than in the topology",
                hint,
            )


def _map_findings(row: Any, topology: Topology, subject: str, findings: Sequence[Finding]) -> Iterator[Finding]:
    """What the shard lets in: the map of this topology, where it knows which maps are right."""
    problem = map_problem(row, topology)
    if problem is not None and not any(finding.level == "error" for finding in findings):
        yield Finding("error", subject, *problem)
    elif not tells_maps(row):
        what = "its schema is of an older shardpool: other pins, bounds or listed keys in a topology are not noticed"
        yield Finding("warning", subject, what, NOT_INSTALLED_HINT)
    elif problem is None and (epoch := Identity._make(row).epoch) > topology.epoch:
        what = f"it is at epoch {epoch}, and this topology is of epoch {topology.epoch}: an older copy"
        yield Finding("warning", subject, what, "Take the newest file: edits that start from this one are refused.")


def _tables(conn: Connection[Any], topology: Topology) -> Mapping[str, TableFacts]:
    cursor = conn.cursor(row_factory=tuple_row)
    cursor.execute(TABLE_FACTS, (list(topology.placements),))
    return table_facts(cursor.fetchall())


def _stored(conn: Connection[Any], topology: Topology) -> Mapping[str, StoredFacts]:
    cursor = conn.cursor(row_factory=tuple_row)
    sharded = [table for keyspace in topology.keyspaces.values() for table in keyspace.tables]
    cursor.execute(STORED_FACTS, (sharded,))
    return stored_facts(cursor.fetchall())


def _rows(conn: Connection[Any], topology: Topology, name: str, facts: Mapping[str, TableFacts]) -> list[Finding]:
    """Rows of sharded tables that lie on this shard though another one owns their bucket, counted on the server."""
    findings = []
    for keyspace in topology.keyspaces.values():
        for table in keyspace.tables:
            if table in facts:
                findings.extend(_misplaced(conn, keyspace, table, name))
    return findings


def _misplaced(conn: Connection[Any], keyspace: Keyspace, table: str, name: str) -> list[Finding]:
    query = misplaced_rows_query(keyspace, table, held_buckets(keyspace, name))
    misplaced, uncovered = _one(conn, query)
    subject = f"{name}/{table.removeprefix('public.')}"
    where = f'Find them with shardpool."bucket_{keyspace.name}"(…), and move or delete them.'
    findings = []
    if misplaced:
        message = f"{misplaced} rows lie here though their buckets belong to other shards"
        findings.append(Finding("error", subject, message, where))
    if uncovered:
        findings.append(Finding("error", subject, f"{uncovered} rows have a key that no bucket covers", where))
    return findings
