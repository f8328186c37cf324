"""How many connections the processes of a service need of each server, against what it gives. Pure.

Two shards on one server share what it gives. Servers are told apart by their system identifiers, not their addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .report import Finding, ServerBudget

# One row: who the server is, and its limits. -1 is no limit. A role that may use them has the reserved ones too.
# https://www.postgresql.org/docs/current/runtime-config-connection.html
_LIMITS = """
    select {system},
           current_user::text, pg_catalog.current_database()::text,
           pg_catalog.current_setting('max_connections')::int,
           case when r.rolsuper then 0 else
             pg_catalog.current_setting('superuser_reserved_connections')::int
             + case when coalesce((select pg_catalog.pg_has_role(p.oid, 'USAGE') from pg_catalog.pg_roles p
                                   where p.rolname = 'pg_use_reserved_connections'), false) then 0
                    else coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::int end end,
           (select pg_catalog.sum(d.numbackends)::int from pg_catalog.pg_stat_database d),
           case when r.rolsuper then -1 else r.rolconnlimit end,
           case when r.rolsuper then -1 else b.datconnlimit end
    from pg_catalog.pg_roles r, pg_catalog.pg_database b
    where r.rolname = current_user and b.datname = pg_catalog.current_database()
"""


LIMITS = _LIMITS.format(system="(select s.system_identifier::text from pg_catalog.pg_control_system() s)")
# Where the role may not ask for the identifier.
LIMITS_WITHOUT_SYSTEM = _LIMITS.format(system="null")


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one server told to one endpoint; -1 is no limit."""

    shard: str
    address: str
    max_size: int
    system: str
    role: str
    database: str
    max_connections: int
    reserved: int
    in_use: int
    role_limit: int
    database_limit: int


def limits(shard: str, address: str, max_size: int, row: Sequence[Any]) -> ServerLimits:
    """The answer to `LIMITS` of an endpoint whose pool has `max_size` connections."""
    system, *others = row
    return ServerLimits(shard, address, max_size, system or _host(address), *others)


def _host(address: str) -> str:
    return address.rpartition("/")[0]


def budgets(limits_of_all: Sequence[ServerLimits], processes: int) -> list[ServerBudget]:
    """What each server has to give to so many processes, in the order of the servers."""
    return [_budget(ones, processes) for ones in _by_server(limits_of_all)]


def _by_server(limits_of_all: Sequence[ServerLimits]) -> list[list[ServerLimits]]:
    by_system: dict[str, list[ServerLimits]] = {}
    for one in limits_of_all:
        by_system.setdefault(one.system, []).append(one)
    return [*by_system.values()]


def _budget(ones: Sequence[ServerLimits], processes: int) -> ServerBudget:
    first = ones[0]
    return ServerBudget(
        address=_host(first.address),
        shards=tuple(dict.fromkeys(one.shard for one in ones)),
        needed=processes * sum(one.max_size for one in ones),
        available=min(one.max_connections - one.reserved for one in ones),
        in_use=first.in_use,
    )


def budget_findings(limits_of_all: Sequence[ServerLimits], processes: int) -> Iterator[Finding]:
    """What does not fit, and what to set; for each server, each role on it, and each database."""
    for ones in _by_server(limits_of_all):
        yield from _server(ones, processes)
        for role in dict.fromkeys(one.role for one in ones):
            its = [one for one in ones if one.role == role]
            hint = f"ALTER ROLE {role} CONNECTION LIMIT {{}}"
            yield from _limited(its, processes, its[0].role_limit, f"role {role}", hint)
        for database in dict.fromkeys(one.database for one in ones):
            its = [one for one in ones if one.database == database]
            hint = f"ALTER DATABASE {database} CONNECTION LIMIT {{}}"
            yield from _limited(its, processes, its[0].database_limit, f"database {database}", hint)


def _server(ones: Sequence[ServerLimits], processes: int) -> Iterator[Finding]:
    budget = _budget(ones, processes)
    each = budget.needed // processes
    subject = f"server {budget.address}"
    shards = ", ".join(budget.shards)
    what = (
        f"{_of(processes)} of {each} connections for {shards} need {budget.needed} of {budget.available}; "
        f"{budget.in_use} are in use now"
    )
    if budget.needed > budget.available:
        reserved = ones[0].max_connections - budget.available
        raising = f"set max_connections to {budget.needed + reserved} or more on the server"
        yield Finding("error", subject, what, _hint(ones, processes, budget.available, raising))
    elif budget.needed + each > budget.available:
        yield Finding("warning", subject, f"{what}: no room for one process more, as while processes are replaced")
    else:
        yield Finding("ok", subject, what)


def _limited(ones: Sequence[ServerLimits], processes: int, limit: int, who: str, raising: str) -> Iterator[Finding]:
    needed = processes * sum(one.max_size for one in ones)
    if 0 <= limit < needed:
        subject = f"server {_host(ones[0].address)}"
        what = f"{_of(processes)} need {needed} connections, but {who} may have {limit}"
        yield Finding("error", subject, what, _hint(ones, processes, limit, raising.format(needed)))


def _of(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def _hint(ones: Sequence[ServerLimits], processes: int, available: int, raising: str) -> str:
    each = sum(one.max_size for one in ones)
    size = available // (processes * len(ones))
    ways = [f"run at most {_of(available // each)}"] if available >= each else []
    if size:
        ways.insert(0, f"set pool.max_size to {size}")
    advice = ", or ".join([*ways, raising])
    return advice[0].upper() + advice[1:] + "."
