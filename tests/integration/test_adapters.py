"""What is planned is what runs, whatever adapters the connections have."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.adapt import Dumper, Loader
from psycopg.types.string import StrDumper

from shardpool import InvalidKey, Router


class Region:
    """A value that only the connections know how to write."""

    def __init__(self, code: str) -> None:
        self.code = code


class RegionDumper(Dumper):
    oid = 25

    def dump(self, obj: Any) -> bytes:
        return str(obj.code).lower().encode()


class Lowered(StrDumper):
    def dump(self, obj: Any) -> Any:
        return super().dump(obj.lower())


class Shouted(Loader):
    def load(self, data: Any) -> str:
        return bytes(data).decode().upper()


class Negated(Loader):
    def load(self, data: Any) -> int:
        return -int(bytes(data))


def negated(conn: psycopg.Connection[Any]) -> None:
    conn.adapters.register_loader("int8", Negated)


def with_regions(conn: psycopg.Connection[Any]) -> None:
    conn.adapters.register_dumper(Region, RegionDumper)


def lowered(conn: psycopg.Connection[Any]) -> None:
    conn.adapters.register_dumper(str, Lowered)
    conn.adapters.register_loader("text", Shouted)


@pytest.mark.servers
def test_literals_are_planned_as_the_connections_write_them(topology_path: str) -> None:
    with Router(topology_path, configure=with_regions) as router:
        router.copy_into("stores", [("de", "a"), ("us", "b")], columns=("region", "name"))
        for code, name in (("DE", "a"), ("US", "b")):
            query = sql.SQL("select name from stores where region = {}").format(sql.Literal(Region(code)))
            assert [tuple(row) for row in router.execute(query)] == [(name,)]
            assert [tuple(row) for row in router.stream(query)] == [(name,)]
            assert router.execute(query).plan.strategy == "one"
        inserted = sql.SQL("insert into stores values ({}, 'c')").format(sql.Literal(Region("CA")))
        router.execute(inserted)
        assert router.for_key("ca", keyspace="regions").execute(
            "select name from stores where region = 'ca'"
        ).one() == ("c",)


@pytest.mark.servers
def test_values_that_are_sent_otherwise_tell_nothing_of_a_key(topology_path: str) -> None:
    with Router(topology_path, configure=lowered) as router:
        router.shard("s0").execute("insert into stores values ('de', 'a')")
        router.shard("s1").execute("insert into stores values ('us', 'b')")
        assert router.execute("select name from stores where region = %s", ["US"]).one() == ("B",)
        assert len(router.execute("select name from stores where region = any(%s)", [["US", "DE"]])) == 2
        with pytest.raises(InvalidKey):
            router.execute("insert into stores values (%s, 'c')", ["CA"])


@pytest.mark.servers
def test_bytes_are_read_in_the_encoding_of_the_connections(topology_path: str) -> None:
    with Router(topology_path, kwargs={"client_encoding": "LATIN1"}) as router:
        router.shard("s0").execute("insert into stores values ('de', 'Zürich')")
        query = "select region from stores where name = 'Zürich'"
        assert router.execute(query.encode("latin-1")).one() == router.execute(query).one() == ("de",)
        assert router.execute(query + " order by region limit 1").one() == ("de",)


@pytest.mark.servers
def test_rows_come_in_the_order_of_the_servers_whatever_is_made_of_their_integers(topology_path: str) -> None:
    with Router(topology_path, configure=negated) as router:
        router.copy_into("orders", [(key, 1, "x") for key in range(1000)], columns=("tenant_id", "n", "note"))
        query = "select tenant_id, n from orders order by tenant_id, n"
        wanted = [(-key, 1) for key in range(1000)]
        assert list(router.stream(query)) == wanted
        assert router.execute(query).rows == wanted
