"""What callers do to a connection that the next one must not find: noted while it happens, undone when it is back.

The router's own verbs note the statement that they are given. While a caller has the connection itself, psycopg is
watched in two places, whatever cursor classes are used: the manager of prepared statements is shown the text of every
`execute` and `executemany`, and every statement, also those of `copy()`, `stream()` and server-side cursors, passes the
beginning of a query. One that was begun and whose text was not seen counts as one that leaves state.
"""

from __future__ import annotations

from collections.abc import Generator
from operator import itemgetter
from sys import intern
from typing import Any
from weakref import ref

from psycopg import sql
from psycopg._preparing import Prepare, PrepareManager
from psycopg._queries import PostgresQuery
from psycopg.adapt import AdaptersMap
from psycopg.raw_cursor import RawCursorMixin

from ..topology import Reset
from .session_sql import ENDS, LONGEST_CACHED, Left, left_by, marks_of

# The attribute of a connection that holds its `ConnectionState`.
SESSION = "_shardpool_session"

# Marks. What was left on the server: state, or what no reset undoes.
STATE = int(Left.STATE)
LASTING = int(Left.LASTING)
# A statement was begun, and its text has not been seen.
BEGUN = 4
_ALL_BUT_BEGUN = ~BEGUN
# A caller has had the connection itself in hand.
LENT = 8
# It holds guards of moves.
GUARDED = 64

# All that DISCARD ALL does, but for the statements that psycopg and scatters have prepared by the protocol: PostgreSQL
# knows which are SQL's own. RESET ROLE brings back the role that the connection began with, by ALTER ROLE … SET role.
# https://www.postgresql.org/docs/current/sql-discard.html
RESET = """
close all;
set session authorization default;
reset role;
reset all;
unlisten *;
select pg_catalog.pg_advisory_unlock_all();
discard plans;
discard temp;
discard sequences;
do $$
declare
  prepared text;
begin
  for prepared in select name from pg_catalog.pg_prepared_statements where from_sql loop
    execute pg_catalog.format('deallocate %I', prepared);
  end loop;
end
$$;
"""


RAW = "connections of a router do not make raw cursors by default: its statements have placeholders like %s"
RAW_HINT = "Make them where you want them: psycopg.RawCursor(conn), on a connection of connection() or transaction()."


def is_raw(cursor_factory: Any) -> bool:
    """Whether it makes cursors that take PostgreSQL's own placeholders, `$1`, only."""
    return isinstance(cursor_factory, type) and issubclass(cursor_factory, RawCursorMixin)


class ConnectionState:
    """What is known of one connection: `marks` say what has happened since it was clean."""

    __slots__ = (
        "_begin",
        "_begin_plain",
        "_plain",
        "_rest",
        "_watched",
        "baseline",
        "epoch",
        "guards",
        "marks",
        "pristine",
        "settings",
        "watches",
    )

    def __init__(self, conn: Any, reset: Reset, settings: str) -> None:
        # Those of the session, as `settings.SETTINGS` tells them, while nothing is left in it.
        self.settings = intern(settings)
        # The epoch of the topology that it has told its server to work by; None when it tells none.
        self.epoch: int | None = None
        # The numbers of the moves whose guards it holds, or may hold.
        self.guards: tuple[int, ...] = ()
        self.watches = reset != "never"
        # What the marks are when the connection is clean.
        self._rest = STATE if reset == "always" else 0
        self.marks = self._rest
        self._plain: PrepareManager = conn._prepared
        self._watched = _WatchedStatements(self)
        # One and the same memory of what is prepared: which of the two is asked makes no difference to it.
        self._watched.__dict__ = self._plain.__dict__
        self._begin = _noted_beginning(conn, self)
        # Always there, for a key that comes and goes makes a dictionary grow again and again.
        self._begin_plain = _plain_beginning(conn)
        conn._start_query = self._begin_plain
        # The client's side before and after `configure`; they differ only when there is one.
        self.pristine = self.baseline = ClientState(conn)

    def lend(self, conn: Any) -> None:
        """A caller gets the connection itself: watch what is done with it."""
        self.marks |= LENT
        if self.watches:
            conn._prepared = self._watched
            conn._start_query = self._begin

    def settle(self, conn: Any) -> None:
        """From here on the connection is as its next caller may find it, and nobody has it."""
        self.marks = self._rest
        conn._prepared = self._plain
        conn._start_query = self._begin_plain

    def note(self, text: bytes) -> None:
        """A statement is about to be sent."""
        if self.watches:
            self.marks |= marks_of(text) & ~ENDS


class _WatchedStatements(PrepareManager):
    """psycopg's manager of prepared statements, which notes what it is shown."""

    __slots__ = ("_session",)

    def __init__(self, session: ConnectionState) -> None:
        self._session = session

    def maybe_add_to_cache(self, query: PostgresQuery, prep: Prepare, name: bytes) -> Any:
        session = self._session
        session.marks = session.marks & _ALL_BUT_BEGUN | marks_of(query.query)
        # Named rather than super(): on the path of every statement.
        return PrepareManager.maybe_add_to_cache(self, query, prep, name)


def _plain_beginning(conn: Any) -> Any:
    begin = type(conn)._start_query
    # Not a method of the connection: one that refers to itself is not gone when nobody has it any more.
    itself = ref(conn)
    return lambda: begin(itself())


def _noted_beginning(conn: Any, session: ConnectionState) -> Any:
    begin = type(conn)._start_query
    itself = ref(conn)

    def begin_noted() -> Generator[Any, Any, None]:
        if session.marks & BEGUN:
            session.marks |= STATE
        session.marks |= BEGUN
        return begin(itself())  # type: ignore[no-any-return]

    return begin_noted


# Statements that leave nothing, by their text: looked at before `note` is called, on the path of every call.
quiet: set[str] = set()
_QUIET = 4096


def note(conn: Any, query: Any) -> None:
    """Note a statement that the router sends for a caller: text, bytes, or what psycopg makes text of."""
    session: ConnectionState | None = conn.__dict__.get(SESSION)
    if session is None:
        return
    if not isinstance(query, str):
        session.note(query if isinstance(query, bytes) else _composed(conn, query))
        return
    text = query.encode(errors="replace")
    session.note(text)
    if left_by(text) is Left.NOTHING and len(query) <= LONGEST_CACHED:
        expect_quiet(query)


def expect_quiet(query: str) -> None:
    """Note that a text leaves nothing in a session."""
    if len(quiet) >= _QUIET:
        quiet.clear()
    quiet.add(query)


def _composed(conn: Any, query: Any) -> bytes:
    # What is unknown to us leaves something: no statement begins so.
    return query.as_bytes(conn) if isinstance(query, sql.Composable) else b"?"


def is_touched(conn: Any) -> bool:
    """Whether something is left to undo that takes more than an assignment; the rest is undone here, without I/O."""
    session: ConnectionState | None = conn.__dict__.get(SESSION)
    if session is None or not session.marks:
        return False
    if session.marks != LENT:
        return True
    baseline = session.baseline
    if not baseline.is_still(conn):
        if is_past_reset(conn, LENT) or baseline.transaction_differs(conn):
            return True
        baseline.restore(conn)
    session.settle(conn)
    return False


def hold_transaction(conn: Any, *, held: bool) -> None:
    """Whether psycopg takes what the connection's user does for the inside of a `transaction()` block.

    It refuses commit() and rollback() there, and makes savepoints of inner blocks.
    """
    conn._num_transactions = int(held)


def forget_notifies(conn: Any) -> None:
    """Those that came while nobody listened, and are kept for who begins to."""
    if conn._notifies_backlog:
        conn._notifies_backlog.clear()


def transformer_of(cursor: Any) -> Any:
    """That of a cursor which has decoded nothing yet: its result takes it over, instead of making a second one."""
    return cursor._tx


def has_ended_transaction(conn: Any) -> bool:
    """Whether whoever has the connection has ended a transaction by a text."""
    return bool(conn.__dict__[SESSION].marks & ENDS)


def is_past_reset(conn: Any, marks: int) -> bool:
    """Whether something is left that cannot be undone: in the server, or in the middle of psycopg's own doings."""
    return bool(marks & LASTING) or bool(conn._num_transactions or conn._tpc or conn._pipeline)


# The attributes of a connection that its users can change, and psycopg's own of what is under way; those of a map of
# adapters. Compared as one tuple each: that is on the path of every block.
_ASSIGNED = ("row_factory", "cursor_factory", "server_cursor_factory")
_TRANSACTION = ("_isolation_level", "_read_only", "_deferrable")
_HANDLERS = ("_notice_handlers", "_notify_handlers")
_UNDER_WAY = ("_num_transactions", "_tpc", "_pipeline")
_on_connection = itemgetter(*_ASSIGNED, *_TRANSACTION, *_HANDLERS, *_UNDER_WAY)
_on_adapters = itemgetter("_loaders", "_dumpers", "_dumpers_by_oid")
_transaction = itemgetter(*_TRANSACTION)


class ClientState:
    """What a caller can change on a connection object, without a word to the server, as it is now."""

    __slots__ = ("_adapted", "_adapters", "_assigned", "_handlers", "_prepare", "_registry", "_seen", "transaction")

    def __init__(self, conn: Any) -> None:
        self._assigned = [(name, getattr(conn, name)) for name in _ASSIGNED]
        self._handlers = [(name, [*getattr(conn, name)]) for name in _HANDLERS]
        self._prepare = conn._prepared.prepare_threshold, conn._prepared.prepared_max
        self.transaction = _transaction(conn.__dict__)
        handlers = [handlers for _, handlers in self._handlers]
        self._seen = (*(value for _, value in self._assigned), *self.transaction, *handlers, 0, None, None)
        # It shares its tables with the connection's until either is written to, which then gets new ones.
        self._adapters = AdaptersMap(conn.adapters)
        self._adapted = _on_adapters(self._adapters.__dict__)
        self._registry: Any = self._adapters.types._registry

    def is_still(self, conn: Any) -> bool:
        """Whether nothing has changed, and nothing is under way."""
        values = conn.__dict__
        adapters, prepared = values["_adapters"], values["_prepared"]
        return bool(
            _on_connection(values) == self._seen
            and _on_adapters(adapters.__dict__) == self._adapted
            and adapters.types._registry is self._registry
            and (prepared.prepare_threshold, prepared.prepared_max) == self._prepare
        )

    def transaction_differs(self, conn: Any) -> bool:
        """Whether transactions would begin otherwise."""
        return bool(_transaction(conn.__dict__) != self.transaction)

    def restore(self, conn: Any) -> None:
        """Put all back, but for how transactions begin, which is no plain assignment in tasks."""
        for name, value in self._assigned:
            setattr(conn, name, value)
        for name, handlers in self._handlers:
            getattr(conn, name)[:] = handlers
        conn._prepared.prepare_threshold, conn._prepared.prepared_max = self._prepare
        conn._adapters = AdaptersMap(self._adapters)
