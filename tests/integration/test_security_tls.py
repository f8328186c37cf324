"""Who the server is, and how the client proves itself: TLS against a real server that has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from shardpool import AsyncRouter, Router, ShardUnavailable, Topology, parse_topology

from .tls_server import PASSWORD, TlsServer, expired_certificate, tls_binaries, tls_server, valid_certificate

# Only this machine: libpq is told the name, and where it is.
NAME = "pg-0.shop.internal"
SCRAM = "hostssl all all 127.0.0.1/32 scram-sha-256"

pytestmark = pytest.mark.xdist_group("security_tls")


@pytest.fixture(scope="module")
def running() -> Iterator[TlsServer]:
    binaries = tls_binaries()
    if binaries is None:
        missing = "this machine has no PostgreSQL with TLS in /usr/lib/postgresql: apt-get install postgresql-15"
        assert "SHARDPOOL_TEST_OLD_SERVER" not in os.environ, missing
        pytest.skip(missing)
    with tls_server(binaries) as server:
        yield server


@pytest.fixture
def server(running: TlsServer) -> TlsServer:
    running.accept(SCRAM)
    running.present(valid_certificate(running.authority, NAME))
    return running


def topology(server: TlsServer, root: Path, *, host: str = NAME, user: str = "app", more: str = "") -> Topology:
    """A fleet of this one server, with the defaults of a topology for a host that is not this machine."""
    return parse_topology(
        f"""
version: 1
fleet: tls
epoch: 1
control: none
shards:
  s0:
    primary:
      {{host: {host}, hostaddr: 127.0.0.1, port: {server.port}, dbname: shop, user: {user},
        password: "${{PASSWORD}}", sslrootcert: "{root}"{more}}}
""",
        env={"PASSWORD": PASSWORD},
    )


@pytest.fixture
def root(server: TlsServer, tmp_path: Path) -> Path:
    path = tmp_path / "root.crt"
    server.authority.cert_pem.write_to_path(str(path))
    return path


VERIFIED = ', sslmode: verify-full, require_auth: "scram-sha-256"'


def refusal(found: Topology) -> str:
    with Router(found) as router, pytest.raises(ShardUnavailable) as raised:
        router.shard("s0").execute("select 1")
    assert PASSWORD not in str(raised.value)
    return str(raised.value)


def test_a_remote_server_is_verified_by_default() -> None:
    found = parse_topology("version: 1\nfleet: f\nepoch: 1\nshards: {s0: {primary: {host: pg-0.internal, dbname: d}}}")
    assert found.shards["s0"].primary.param("sslmode") == "verify-full"
    assert found.shards["s0"].primary.param("require_auth") == "scram-sha-256"


def test_the_right_server_is_let_in(server: TlsServer, root: Path) -> None:
    with Router(topology(server, root, more=VERIFIED)) as router:
        query = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()"
        encrypted, version = router.shard("s0").execute(query).one()
    assert encrypted and version.startswith("TLSv1.")


async def test_the_right_server_is_let_in_by_tasks(server: TlsServer, root: Path) -> None:
    async with AsyncRouter(topology(server, root, more=VERIFIED)) as router:
        found = await router.shard("s0").execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        assert found.one() == (True,)


def test_a_certificate_for_another_name_is_refused(server: TlsServer, root: Path) -> None:
    server.present(valid_certificate(server.authority, "pg-1.shop.internal"))
    told = refusal(topology(server, root, more=VERIFIED))
    assert "pg-1.shop.internal" in told and f'does not match host name "{NAME}"' in told


def test_a_certificate_of_an_unknown_authority_is_refused(server: TlsServer, root: Path) -> None:
    server.present(valid_certificate(trustme.CA(), NAME))
    assert "certificate verify failed" in refusal(topology(server, root, more=VERIFIED))


def test_an_expired_certificate_is_refused(server: TlsServer, root: Path) -> None:
    server.present(expired_certificate(server.authority, NAME))
    assert "certificate verify failed" in refusal(topology(server, root, more=VERIFIED))


def test_a_server_without_tls_is_refused(root: Path, server: TlsServer, server_dsn: str) -> None:
    from psycopg.conninfo import conninfo_to_dict

    plain = TlsServer(int(str(conninfo_to_dict(server_dsn)["port"])), server.data, server.binaries, server.authority)
    assert "server does not support SSL" in refusal(topology(plain, root, more=VERIFIED))


def test_a_server_that_asks_for_the_password_itself_is_refused(server: TlsServer, root: Path) -> None:
    server.accept("hostssl all all 127.0.0.1/32 password")
    told = refusal(topology(server, root, more=VERIFIED))
    assert 'authentication method requirement "scram-sha-256" failed' in told


def test_a_server_that_asks_for_nothing_is_refused(server: TlsServer, root: Path) -> None:
    server.accept("hostssl all all 127.0.0.1/32 trust")
    told = refusal(topology(server, root, more=VERIFIED))
    assert 'authentication method requirement "scram-sha-256" failed' in told


@pytest.mark.parametrize("given", [True, False], ids=["with it", "without it"])
def test_a_client_certificate_is_shown_when_it_is_asked_for(
    server: TlsServer, root: Path, tmp_path: Path, given: bool
) -> None:
    server.accept("hostssl all all 127.0.0.1/32 cert")
    certificate = server.authority.issue_cert("cert_user@shop.internal", common_name="cert_user")
    cert, key = tmp_path / "client.crt", tmp_path / "client.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.touch(mode=0o600)
    key.write_bytes(certificate.private_key_pem.bytes())
    files = f', sslcert: "{cert}", sslkey: "{key}"' if given else f', sslcert: "{tmp_path}/none"'
    found = topology(server, root, user="cert_user", more=f", sslmode: verify-full{files}")
    if given:
        with Router(found) as router:
            assert router.shard("s0").execute("select current_user").one() == ("cert_user",)
    else:
        assert "requires a valid client certificate" in refusal(found)
