"""The image of shardpool: `serve` and jobs, by an account with no rights, on files that cannot be written to."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from shardpool import __version__

from .engine import docker, done, health, run, wait_until
from .hosts import Hosts

IMAGE = f"shardpool:{__version__}"
PROBE = "/usr/local/bin/probe"
MIGRATION = """\
-- migrate:up
create table notes (id bigint primary key);
-- migrate:down
drop table notes;
"""


@pytest.fixture(scope="module")
def mounted(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of `docker run`: the topology and migrations as Kubernetes mounts them, and rights as few as there."""
    folder = tmp_path_factory.mktemp("mounted")
    _as_config_map(folder / "shardpool", {"topology.yaml": hosts.text()})
    _as_config_map(folder / "migrations", {"20261101090000_notes.sql": MIGRATION})
    return [
        *("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", f"--network={hosts.network}"),
        f"--volume={folder}/shardpool:/etc/shardpool:ro",
        f"--volume={folder}/migrations:/migrations:ro",
    ]


def _as_config_map(folder: Path, files: dict[str, str]) -> None:
    """The files below a folder that `..data` points to, and a link to each."""
    inner = folder / "..2026_11_01"
    inner.mkdir(parents=True)
    (folder / "..data").symlink_to(inner.name)
    for name, text in files.items():
        (inner / name).write_text(text, encoding="utf-8")
        (folder / name).symlink_to(f"..data/{name}")
    for path in (folder.parent, folder, inner):
        path.chmod(0o755)


def test_it_is_small_and_not_root() -> None:
    assert int(docker("image", "inspect", "--format", "{{.Size}}", IMAGE)) < 400 * 2**20
    assert docker("run", "--rm", "--entrypoint=id", IMAGE, "-u") == "10001"
    assert docker("run", "--rm", IMAGE, "--version") == f"shardpool {__version__}"


def test_jobs_end_with_what_they_found(mounted: list[str]) -> None:
    up = docker("run", "--rm", *mounted, IMAGE, "migrate", "up", "--dir=/migrations")
    assert "4 migrations run on 4 shards" in up
    # The role is a superuser, and a table is not in the topology: warnings, which are no failure.
    found = run("docker", "run", "--rm", *mounted, IMAGE, "check")
    assert found.returncode == 0, found.stdout + found.stderr
    refused = run("docker", "run", "--rm", *mounted, IMAGE, "query", "select nothing")
    assert refused.returncode == 2


def test_serve_is_healthy_and_tells_of_the_fleet(mounted: list[str]) -> None:
    name, token = f"shardpool-serve-{secrets.token_hex(3)}", secrets.token_hex(8)
    listen = ("serve", "--listen=0.0.0.0:9188")
    try:
        docker("run", "--detach", f"--name={name}", f"--env=SHARDPOOL_TOKEN={token}", *mounted, IMAGE, *listen)
        wait_until(lambda: health(name) == "healthy", 120, "it is not healthy")
        wait_until(lambda: run("docker", "exec", name, PROBE, "/readyz").returncode == 0, 60, "it is not ready")
        assert run("docker", "exec", "--env=SHARDPOOL_TOKEN=other", name, PROBE, "/readyz").returncode == 1
        done(run("docker", "exec", name, PROBE, "/metrics"))
        assert token not in docker("logs", name)
        docker("stop", "--time=20", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name) == "0"
    finally:
        run("docker", "rm", "--force", name)
