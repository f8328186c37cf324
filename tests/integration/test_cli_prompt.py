"""The shell as a person uses it: at a prompt, on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSCTTY, TIOCSWINSZ
from time import monotonic

import pytest

from tests.timing import in_time

from .test_cli import COMMAND, Cli, cli
from .test_cli_shell import ROWS

pytest.importorskip("prompt_toolkit")

__all__ = ["cli"]

_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])|[\x00\x07\r]")
_PATIENCE = 20.0


class Terminal:
    """A process on a pseudo-terminal; what it writes is read without the escapes that move and colour."""

    def __init__(self, cli: Cli, *arguments: str, command: str = "shell") -> None:
        self._master, slave = pty.openpty()
        ioctl(slave, TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        # The report of the cursor's place is an answer that a real terminal would give.
        environment = {**cli.environment, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = subprocess.Popen(
            [*COMMAND, command, *arguments],
            env=environment,
            cwd=cli.folder,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: ioctl(0, TIOCSCTTY, 0),
        )
        os.close(slave)
        self._raw = b""

    def type(self, text: str) -> None:
        """Send keys; what was read before is forgotten."""
        self._raw = b""
        os.write(self._master, text.encode())

    def expect(self, pattern: str) -> str:
        """Read until the text matches, and give it."""
        until = monotonic() + _PATIENCE
        while monotonic() < until:
            text = _ESCAPE.sub("", self._raw.decode(errors="replace"))
            if re.search(pattern, text, re.DOTALL):
                return text
            if not self._read(until):
                break
        raise AssertionError(f"{pattern!r} did not come, but {self._raw.decode(errors='replace')!r}")

    def _read(self, until: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, until - monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux says so when the other side is closed
            return False
        self._raw += data
        return bool(data)

    def wait(self) -> int:
        """The exit code."""
        until = monotonic() + _PATIENCE
        while monotonic() < until and self._read(until):
            pass
        return self.process.wait(_PATIENCE)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_PATIENCE)
        os.close(self._master)


@pytest.fixture
def terminal(cli: Cli) -> Iterator[Terminal]:
    cli("query", ROWS)
    opened = Terminal(cli)
    try:
        opened.expect(r"4 shards.*=>\s*$")
        yield opened
    finally:
        opened.close()


def test_a_session(terminal: Terminal) -> None:
    terminal.type("select count(*) as n\r")
    terminal.expect(r"->\s*$")
    terminal.type("from orders;\r")
    assert re.search(r"n\n─\n8\n\(1 row\)\n", terminal.expect(r"row\).*=>\s*$"))

    terminal.type("\\d\r")
    assert re.search(r"orders +tenants +tenant_id +hash on s0, s1, s2, s3\n", terminal.expect(r"rows\).*=>\s*$"))
    terminal.type("\\x\r")
    terminal.expect(r"Expanded display is on.*=>\s*$")
    terminal.type("\\timing\r")
    terminal.expect(r"Timing is on.*=>\s*$")
    terminal.type("\\plan\r")
    terminal.expect(r"Showing plans is on.*=>\s*$")
    terminal.type("select max(note) as top, 'a;b' as semi from orders;\r")
    told = terminal.expect(r"Time: [0-9.]+ ms.*=>\s*$")
    assert re.search(r"strategy: combine.*record 1 .*top +│ note 7\nsemi │ a;b\n", told, re.DOTALL)

    terminal.type("select nothing from orders; select 'not run';\r")
    told = terminal.expect(r"ERROR:.*=>\s*$")
    assert "nothing" in told and "(1 row)" not in told
    terminal.type("\\shard s3\r")
    terminal.expect(r"/s3=>\s*$")
    terminal.type("begin;\r")
    terminal.expect(r"ERROR:.*/s3=>\s*$")
    terminal.type("\\shard\r")
    terminal.expect(r"wherever their rows are.*(?<!s3)=>\s*$")

    terminal.type("\x04")
    assert terminal.wait() == 0


def test_words_that_psql_knows(terminal: Terminal) -> None:
    terminal.type("help\r")
    assert "\\timing" in terminal.expect(r"FILE .*=>\s*$")
    terminal.type("exit\r")
    assert terminal.wait() == 0


def test_a_statement_that_goes_on_can_be_left(terminal: Terminal) -> None:
    terminal.type("select 1\r")
    terminal.expect(r"->\s*$")
    terminal.type("\\q\r")
    assert terminal.wait() == 0


def test_interrupts(terminal: Terminal) -> None:
    terminal.type("select 'half\r")
    terminal.expect(r"->\s*$")
    terminal.type("\x03")
    terminal.expect(r"=>\s*$")
    terminal.type("select 1 as one;\r")
    assert "(1 row)" in terminal.expect(r"row\).*=>\s*$")

    for statement in ("select pg_sleep(30);", "select count(pg_sleep(30)) from orders;"):
        begun = monotonic()
        terminal.type("\\shards\r")
        terminal.expect(r"s3 .*=>\s*$")
        terminal.type(statement + "\r")
        terminal.expect(re.escape(statement[-10:]) + ".*\n")
        select.select([], [], [], 0.7)
        terminal.type("\x03")
        terminal.expect(r"interrupted.*=>\s*$")
        in_time(monotonic() - begun, 4.5, "the topology's timeout ended it, not the interrupt")
        terminal.type("select 2 as two;\r")
        assert "(1 row)" in terminal.expect(r"row\).*=>\s*$")

    terminal.type("\\q\r")
    assert terminal.wait() == 0


def test_history_is_kept_without_passwords(terminal: Terminal, cli: Cli) -> None:
    terminal.type("select 1 as first;\r")
    terminal.expect(r"row\).*=>\s*$")
    terminal.type("alter role nobody_here password 'x';\r")
    terminal.expect(r"ERROR:.*=>\s*$")
    terminal.type("\x04")
    assert terminal.wait() == 0
    path = Path(cli.environment["SHARDPOOL_HOME"]) / ".shell_history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert "+select 1 as first;" in text and "nobody_here" not in text
    again = Terminal(cli)
    try:
        again.expect(r"=>\s*$")
        again.type("\x1b[A")
        again.expect("select 1 as first;")
        again.type("\r")
        again.expect(r"\(1 row\).*=>\s*$")
    finally:
        again.close()


def test_tab_completes_and_a_paste_runs_at_once(terminal: Terminal) -> None:
    terminal.type("select count(*) from even")
    terminal.expect("even$")
    terminal.type("\t")
    terminal.expect("ts")
    terminal.type(";\r")
    terminal.expect(r"\(1 row\).*=>\s*$")
    terminal.type("\x1b[200~select 1 as one;\n\\timing\nselect 2\n as two;\x1b[201~")
    terminal.expect("two;")
    terminal.type("\r")
    assert re.search(r"one\n───\n.*Timing is on.*two\n", terminal.expect(r"Time: .*=>\s*$"), re.DOTALL)
