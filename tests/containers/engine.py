"""The container engine, by its command line, as a user has it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from time import monotonic, sleep
from typing import Any

from tests.timing import not_after


class EngineFailed(AssertionError):
    """The engine has not done what it was asked for, which says nothing of shardpool."""


def run(*command: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command and what it printed, whatever its exit code."""
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=env, **options)


def done(process: subprocess.CompletedProcess[str]) -> str:
    """The output of a command that has to have gone well."""
    assert process.returncode == 0, f"{process.args} ended with {process.returncode}:\n{process.stdout}{process.stderr}"
    return process.stdout.strip()


@contextmanager
def by_engine() -> Iterator[None]:
    """What fails in the block, or does not come about in time, is the engine's."""
    try:
        yield
    except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
        raise EngineFailed(str(error)) from error


def docker(*arguments: str) -> str:
    """The output of `docker` with these arguments; fails when it fails."""
    with by_engine():
        return done(run("docker", *arguments))


@cache
def compose() -> list[str]:
    """The command of compose: the plugin of `docker`, or the program of its own that it was before."""
    with by_engine():
        if run("docker", "compose", "version").returncode == 0:
            return ["docker", "compose"]
        assert shutil.which("docker-compose"), "neither `docker compose` nor `docker-compose` is there"
        return ["docker-compose"]


def health(container: str) -> str:
    return docker("inspect", "--format", "{{.State.Health.Status}}", container)


def wait_until(is_so: Callable[[], bool], seconds: float, what: str) -> None:
    """Looks again and again until it is so, or fails after these seconds."""
    end = monotonic() + seconds
    while not is_so():
        not_after(end, what)
        sleep(0.1)


def environment(**changes: str | None) -> dict[str, str]:
    """The environment of this process with some variables set, or with None left out."""
    merged = {**os.environ, **changes}
    return {name: value for name, value in merged.items() if value is not None}
