"""Idle connections of a pool of psycopg_pool, taken and put back in place; what needs more is left to the pool.

On the path of every call: `getconn()` and `putconn()` of the pool take 4 µs together, these a quarter of it. They keep
to the pool's lock and to its own books, and say when a case is not theirs: no idle connection, one that is due to be
replaced, a pool that is closed, somebody who waits.
"""

from __future__ import annotations

from typing import Any


def pool_of(conn: Any) -> Any:
    """The pool that a connection which is not in it belongs to; None while it is in it, or is nobody's."""
    return getattr(conn, "_pool", None)


def idle_count(pool: Any) -> int:
    """How many connections are idle. `get_stats()`, which says the same, makes two dictionaries."""
    return len(pool._pool)


def was_opened(pool: Any) -> bool:
    """Whether it has been opened, even if it is closed by now."""
    return bool(pool._opened)


def is_making(pool: Any) -> bool:
    """Whether it has something to do in the background."""
    return not pool._tasks.empty()


def believed_count(pool: Any) -> int:
    """How many connections it believes that it has."""
    return int(pool._nconns)


def correct_count(pool: Any, count: int) -> None:
    """It has so many connections, and makes none; to be called under its lock."""
    pool._nconns = count
    pool._growing = False


def lock_of(pool: Any) -> Any:
    """The lock under which its books are changed."""
    return pool._lock


def take_idle(pool: Any) -> Any:
    """An idle connection; None when there is none."""
    with pool._lock:
        return _taken(pool)


def async_take_idle(pool: Any) -> Any:
    """An idle connection; None when there is none, or when another task is in the middle of something."""
    return None if pool._lock.locked() else _taken(pool)


def _taken(pool: Any) -> Any:
    idle = pool._pool
    if not idle:
        return None
    conn = idle.popleft()
    # How few were idle since the pool last looked: by that it shrinks.
    if len(idle) < pool._nconns_min:
        pool._nconns_min = len(idle)
    pool._stats["requests_num"] += 1
    conn._pool = pool
    return conn


def put_idle(pool: Any, conn: Any, now: float) -> bool:
    """Put back a connection that is well and outside a transaction; False when the pool itself has to take it."""
    if conn._expire_at <= now or conn._created_at <= pool._drained_at:
        return False
    with pool._lock:
        return _put(pool, conn)


def async_put_idle(pool: Any, conn: Any, now: float) -> bool:
    """`put_idle` for tasks."""
    if conn._expire_at <= now or conn._created_at <= pool._drained_at or pool._lock.locked():
        return False
    return _put(pool, conn)


def _put(pool: Any, conn: Any) -> bool:
    if pool._closed or pool._waiting or pool._pool_full_event is not None:
        return False
    # As the pool does it: a connection that is in it does not refer to it.
    conn._pool = None
    pool._pool.append(conn)
    return True
