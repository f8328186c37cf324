"""The prompt of the shell, on prompt_toolkit: editing, history, completion, and errors that do not end it."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING

import click

from ...errors import ShardpoolError
from ..app import exit_code, print_error, print_interrupt
from ..statements import entries, is_complete
from ..wording import say_at_prompt
from .completion import candidates
from .history import history_file, may_be_saved
from .session import Leave, ShellSession

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings


_WORDS = {"help": "\\?", "exit": "\\q", "quit": "\\q"}


def require_prompt_toolkit() -> None:
    """Raise a `ShardpoolError` that says how to install it, when it is missing."""
    if find_spec("prompt_toolkit") is None:
        raise ShardpoolError(
            "the prompt needs prompt_toolkit, which is not installed",
            hint="pip install 'shardpool[shell]'; -c and statements on standard input do without it.",
        )


def converse(session: ShellSession) -> None:
    """Ask for statements and run them until the user leaves."""
    from ... import __version__

    topology = session.router.topology
    click.echo(f"shardpool {__version__}, fleet {topology.fleet}, {len(topology.shards)} shards. \\? for help.")
    prompt = _prompt_session(session)
    while True:
        try:
            text = prompt.prompt(f"{_name(session)}=> ", prompt_continuation=f"{_name(session)}-> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        try:
            session.run(entries(StringIO(_command(text))))
        except Leave:
            return
        except KeyboardInterrupt as error:
            click.echo("", err=True)
            print_interrupt(error)
        except Exception as error:
            if exit_code(error) is None:
                raise
            say_at_prompt(error)
            print_error(error)


def _command(text: str) -> str:
    """What was typed, or the command that it stands for in psql: a word alone, or \\q where a statement goes on."""
    if not is_complete(text) and text.rstrip().endswith("\n\\q"):
        return "\\q"
    return _WORDS.get(text.strip().rstrip(";").rstrip().lower(), text)


def _name(session: ShellSession) -> str:
    fleet = session.router.topology.fleet
    return fleet if session.shard is None else f"{fleet}/{session.shard}"


def _prompt_session(session: ShellSession) -> PromptSession[str]:
    from prompt_toolkit import PromptSession

    return PromptSession(
        multiline=True,
        key_bindings=_key_bindings(),
        history=_history(),
        completer=_completer(session),
        complete_while_typing=False,
        enable_suspend=True,
    )


def _key_bindings() -> KeyBindings:
    """Enter runs a text in which every statement has its `;`, and begins a new line in any other."""
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_complete(_command(buffer.text)):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    return bindings


def _history() -> History:
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class PrivateHistory(FileHistory):
        def store_string(self, string: str) -> None:
            if may_be_saved(string):
                # A disk that is full is no reason to end a session.
                with suppress(OSError):
                    super().store_string(string)

    try:
        return PrivateHistory(history_file())
    except (OSError, ShardpoolError) as error:
        click.echo(f"WARNING:  the history is not kept: {error}", err=True)
        return InMemoryHistory()


def _completer(session: ShellSession) -> Completer:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class Names(Completer):
        def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
            word, names = candidates(session.router.topology, document.text_before_cursor)
            return (Completion(name, -len(word)) for name in names)

    return Names()
