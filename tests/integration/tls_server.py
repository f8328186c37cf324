"""A PostgreSQL server with TLS, of the operating system's own package, and the certificates for it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep

import psycopg
import trustme
from psycopg import sql

from shardpool.local.binaries import account, as_account
from tests.timing import not_after

USER, PASSWORD, DATABASE = "app", "correct-horse", "shop"


def tls_binaries() -> Path | None:
    """The folder of a PostgreSQL that was built with OpenSSL; None when this machine has none."""
    for folder in sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True
    ):
        config = folder / "pg_config"
        if not (folder / "postgres").exists():
            continue
        if not config.exists():
            return folder
        told = subprocess.run([config, "--configure"], capture_output=True, text=True)
        if "openssl" in told.stdout or told.returncode:
            return folder
    return None


@dataclass(frozen=True)
class TlsServer:
    """A running server: its port, its data folder, and the authority that its clients are to trust."""

    port: int
    data: Path
    binaries: Path
    authority: trustme.CA

    def present(self, certificate: trustme.LeafCert) -> None:
        """Show this certificate to clients from now on."""
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        self._write("server.crt", chain)
        self._write("server.key", certificate.private_key_pem.bytes())
        self._reload()

    def accept(self, rules: str) -> None:
        """Let clients in by these lines of pg_hba.conf from now on, and the tests themselves by the socket."""
        self._write("pg_hba.conf", f"local all all trust\n{rules}\n".encode())
        self._reload()

    def _reload(self) -> None:
        before = self._loaded()
        self._admin("select pg_reload_conf()")
        deadline = monotonic() + 10
        while self._loaded() == before:
            not_after(deadline, "the server has not read its configuration again")
            sleep(0.01)

    def _loaded(self) -> object:
        return self._admin("select pg_conf_load_time()")

    def _admin(self, query: str) -> object:
        with psycopg.connect(host=str(self.data), port=self.port, user="postgres", dbname="postgres") as conn:
            row = conn.execute(query.encode()).fetchone()
            return row and row[0]

    def _write(self, name: str, content: bytes) -> None:
        path = self.data / name
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(content)
        if (who := account()) is not None:
            os.chown(path, who.uid, who.gid)


def valid_certificate(authority: trustme.CA, *names: str) -> trustme.LeafCert:
    return authority.issue_cert(*names)


def expired_certificate(authority: trustme.CA, *names: str) -> trustme.LeafCert:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return authority.issue_cert(*names, not_before=yesterday - timedelta(days=9), not_after=yesterday)


@contextmanager
def tls_server(binaries: Path) -> Iterator[TlsServer]:
    """A server that listens on loopback with TLS, with the role and the database of this module."""
    folder = Path(tempfile.mkdtemp(prefix="shardpool-tls-"))
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir(mode=0o700)
    if (who := account()) is not None:
        os.chown(data, who.uid, who.gid)
    authority = trustme.CA()
    server = TlsServer(_free_port(), data, binaries, authority)
    try:
        as_account([str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync"])
        certificate = valid_certificate(authority, "localhost", "127.0.0.1")
        server._write("server.crt", b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        server._write("server.key", certificate.private_key_pem.bytes())
        server._write("root.crt", authority.cert_pem.bytes())
        with (data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses='127.0.0.1'\nport={server.port}\nunix_socket_directories='{data}'\nssl=on\n"
                "ssl_cert_file='server.crt'\nssl_key_file='server.key'\nssl_ca_file='root.crt'\nfsync=off\n"
                "password_encryption='scram-sha-256'\n"
            )
        program = str(binaries / "pg_ctl")
        log = str(data / "log")
        as_account([program, "-D", str(data), "-l", log, "-w", "-t", "20", "start"])
        try:
            with psycopg.connect(
                host=str(data), port=server.port, user="postgres", dbname="postgres", autocommit=True
            ) as conn:
                conn.execute(sql.SQL("create role app login password {}").format(PASSWORD))
                conn.execute("create role cert_user login")
                conn.execute("create database shop owner app")
            yield server
        finally:
            as_account([program, "-D", str(data), "-m", "immediate", "-w", "-t", "20", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
