"""`shardpool`: its commands by name, and what an error looks like and exits with."""

from __future__ import annotations

import atexit
import gc
import logging
import sys
from importlib import import_module
from typing import Any, NamedTuple

import click

from .groups import Group
from .wording import DEADLINE, in_commands, say, say_which_deadline


class CommandEntry(NamedTuple):
    """A command: the module below this package that holds it under its name, and its help of one line.

    The help stands here so that listing the commands imports none of them.
    """

    module: str
    help: str


COMMANDS = {
    "init": CommandEntry("fleet", "Install the shardpool schema on every shard."),
    "check": CommandEntry("fleet", "Compare the fleet with the topology: a doctor."),
    "stats": CommandEntry("fleet", "Connect to every shard and show the pools."),
    "top": CommandEntry("top", "Show every shard and endpoint live."),
    "serve": CommandEntry("serve", "Tell over HTTP how the fleet is, and its metrics."),
    "route": CommandEntry("route", "Show where keys live."),
    "query": CommandEntry("query", "Run SQL: wherever its rows are, or on named shards."),
    "explain": CommandEntry("explain", "Show how a statement would be run."),
    "shell": CommandEntry("shell", "Type SQL at a prompt, or run a script of it."),
    "load": CommandEntry("load", "Load a CSV file, each row to the shard of its key."),
    "migrate": CommandEntry("migrate", "Change the schema of the whole fleet."),
    "transactions": CommandEntry("transactions", "Show and end what transactions over several shards have left."),
    "lookup": CommandEntry("lookup", "Keep columns unique over the fleet, and find rows by them."),
    "topology": CommandEntry("topology", "Check, show or change the topology."),
    "move": CommandEntry("reshard.move", "Move rows to another shard while they are used."),
    "rebalance": CommandEntry("reshard.many", "Spread the rows of a keyspace over all shards."),
    "drain": CommandEntry("reshard.many", "Move all that a shard owns to others."),
    "split": CommandEntry("reshard.many", "Divide a range, and move a part of it."),
    "verify": CommandEntry("reshard.verify", "Compare what is on two shards, or count by bucket."),
    "local": CommandEntry("local", "Run a fleet of real servers on this machine."),
    "demo": CommandEntry("demo", "Load real data into four real servers and use them."),
    "completion": CommandEntry("completion", "Print the completion script of a shell."),
}

FAILURE, MISTAKE, INTERRUPTED = 1, 2, 130


class App(Group):
    """A group whose commands are imported when they are called, and whose errors are printed without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f".{COMMANDS[cmd_name].module}", __package__)
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt as error:
            click.echo("", err=True)
            print_interrupt(error)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if ctx.params.get("verbose", 0) > 1:
                raise
            code = exit_code(error)
            if code is None:
                raise
            say_which_deadline(error, ctx.meta.get(DEADLINE))
            print_error(error)
            ctx.exit(code)


def print_error(error: Exception) -> None:
    """An error as psql shows it: ERROR, and DETAIL and HINT where there are, in the words of the command line."""
    say(error, in_commands)
    click.echo("\n".join([f"ERROR:  {str(error).strip()}", *getattr(error, "__notes__", [])]), err=True)


def print_interrupt(error: KeyboardInterrupt) -> None:
    """What was interrupted, and what is known of its outcome."""
    click.echo("\n".join(["interrupted", *getattr(error, "__notes__", [])]), err=True)


def exit_code(error: Exception) -> int | None:
    """2 for what the caller can mend in the call, 1 for a fleet that failed; None for what is not expected at all."""
    import psycopg

    from ..errors import LoadError, ScatterError, ShardpoolError

    if isinstance(error, UnicodeError):
        return MISTAKE
    if isinstance(error, LoadError) and (error.line is not None or error.record is not None or not error.failures):
        return MISTAKE
    if isinstance(error, ScatterError | LoadError):
        # What every shard refuses, the call is to blame for, unless a right is missing; what only some refuse, those.
        failures = [failure for failure in error.failures.values() if isinstance(failure, Exception)]
        may = not any(isinstance(failure, psycopg.errors.InsufficientPrivilege) for failure in failures)
        wrong = may and {exit_code(failure) for failure in failures} == {MISTAKE}
        return MISTAKE if wrong and not getattr(error, "results", None) else FAILURE
    if isinstance(error, ShardpoolError):
        return error.exit_code
    if isinstance(error, psycopg.Error):
        # Classes 22, 26, 42 and 0A: bad data, an unknown statement, wrong SQL, a feature that is not there. What
        # psycopg refuses by itself, such as parameters without a placeholder, has no code.
        unsent = error.sqlstate is None and isinstance(error, psycopg.ProgrammingError | psycopg.DataError)
        return MISTAKE if unsent or (error.sqlstate or "").startswith(("22", "26", "42", "0A")) else FAILURE
    return FAILURE if isinstance(error, OSError) else None


@click.group(cls=App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="shardpool", message="shardpool %(version)s")
@click.option("-t", "--topology", metavar="FILE", help="The topology file; see below for the default.")
@click.option("-v", "--verbose", count=True, help="Say more on standard error; twice: tracebacks too.")
@click.pass_context
def shardpool(ctx: click.Context, topology: str | None, verbose: int) -> None:
    """Many PostgreSQL servers used as one sharded database.

    The topology file is the one of --topology, of SHARDPOOL_TOPOLOGY, ./topology.yaml, ./config/topology.yaml, or that
    of the local fleet `default` when it is up.

    Exits with 0 when all is well, 1 when a shard failed or a check found errors, 2 when the call has to be changed.
    """
    ctx.obj = topology
    logging.basicConfig(
        level=[logging.ERROR, logging.INFO, logging.DEBUG][min(verbose, 2)],
        format="%(levelname)s %(name)s: %(message)s",
    )
    if not verbose:
        logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)


# How many objects are made before they are looked through for garbage; Python's default is 700. What a command imports
# stays to its end, and looking through it again and again takes a tenth of its time.
_OBJECTS = 100_000


def main() -> None:
    """The console script."""
    gc.set_threshold(_OBJECTS)
    # Nor is what is left looked through once more at the end, when the system takes it all back: another tenth.
    atexit.register(gc.freeze)
    try:
        shardpool(prog_name="shardpool")
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        sys.stderr.close()
        sys.exit(FAILURE)
