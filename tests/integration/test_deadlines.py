"""What a deadline promises at its edges: while the router closes, under COMMIT, and when it comes with the answer."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from time import monotonic
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from shardpool import AsyncRouter, CommitUnknown, DeadlineExceeded, Route, Router
from shardpool._runtime.watchdog import Watchdog
from shardpool.testing import BACKEND_VARIABLE
from shardpool.topology import Topology
from tests.timing import in_time, not_after


def test_a_call_in_flight_keeps_its_deadline_when_the_router_is_closed(topology_path: str) -> None:
    with Router(topology_path) as router:
        route = router.for_key(1, table="orders")
        route.execute("select 1")
        call = _InThread(lambda: route.execute("select pg_sleep(60)", timeout=0.8))
        threading.Event().wait(0.3)
        router.close()
        assert isinstance(call.error(), DeadlineExceeded)
        in_time(call.seconds, 1.5)


async def test_a_call_of_a_task_keeps_its_deadline_when_the_router_is_closed(topology_path: str) -> None:
    async with AsyncRouter(topology_path) as router:
        route = router.for_key(1, table="orders")
        await route.execute("select 1")
        call = asyncio.create_task(route.execute("select pg_sleep(60)", timeout=0.8))
        await asyncio.sleep(0.3)
        started = monotonic()
        await router.close()
        with pytest.raises(DeadlineExceeded):
            await call
        in_time(monotonic() - started, 1.2)


def test_a_watchdog_that_was_closed_still_watches_what_comes_later(server_dsn: str) -> None:
    watchdog = Watchdog()
    with psycopg.connect(server_dsn) as conn:
        watchdog.release(watchdog.watch(conn, monotonic() + 5))
        watchdog.close()
        _wait_until_no_thread(watchdog)
        started = monotonic()
        watchdog.watch(conn, started + 0.2)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select pg_sleep(60)")
        in_time(monotonic() - started, 1.0)
    _wait_until_no_thread(watchdog)


def test_a_connection_block_that_was_cut_does_not_deny_what_it_committed_itself(router: Router) -> None:
    route = router.for_key(1, table="orders")
    with pytest.raises(DeadlineExceeded) as raised, route.connection(block_timeout=0.3) as conn:
        conn.execute("insert into orders values (1, 1, 'x')")
        conn.commit()
        conn.execute("select pg_sleep(60)")
    assert raised.value.applied == "unknown"
    assert route.execute("select n from orders").rows == [(1,)]
    with pytest.raises(DeadlineExceeded) as raised, route.transaction(block_timeout=0.3) as conn:
        conn.execute("select pg_sleep(60)")
    assert raised.value.applied == "no"


def test_the_older_name_of_block_timeout_holds_with_a_warning(router: Router) -> None:
    route = router.for_key(1, table="orders")
    for begin in (route.connection, route.transaction, router.transaction, router.snapshot):
        with pytest.warns(DeprecationWarning, match="block_timeout=") as warned:
            block = begin(deadline=0.3)
        assert warned[0].filename == __file__
        with pytest.raises(DeadlineExceeded), block as conn:
            conn.execute("select pg_sleep(60)")


def test_a_connection_lost_under_the_blocks_own_commit_leaves_the_write_unknown(router: Router) -> None:
    route = router.for_key(1, table="orders")
    _at_commit(route, "pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(CommitUnknown) as raised, route.connection() as conn:
        conn.execute("insert into orders values (1, 1, 'x')")
        conn.commit()
    assert raised.value.shard == route.shard


def test_what_succeeded_as_its_deadline_came_is_told_and_its_connection_is_not_lent_again(late_router: Router) -> None:
    route = late_router.for_key(1, table="orders")
    route.execute("select 1")
    with _late_answers(0.5):
        assert route.execute("insert into orders values (1, 1, 'x') returning n", timeout=0.3).one() == (1,)
    assert route.execute("select n from orders").rows == [(1,)]


@pytest.mark.parametrize("verb", ["connection", "transaction"])
def test_a_commit_that_was_confirmed_as_the_deadline_came_is_a_success(late_router: Router, verb: str) -> None:
    route = late_router.for_key(1, table="orders")
    block = getattr(route, verb)
    with block() as conn:
        conn.execute("select 1")
    with _late_answers(0.5), block(block_timeout=0.3) as conn:
        conn.execute("insert into orders values (1, 1, 'x')")
    with block() as conn:
        assert conn.execute("select n from orders").fetchall() == [(1,)]


@pytest.mark.parametrize("verb", ["connection", "transaction"])
def test_a_rollback_that_ended_as_its_time_did_leaves_no_broken_connection(topology_path: str, verb: str) -> None:
    with Router(_with_timeout(topology_path, 0.5), connection_class=_LateConnection) as router:
        block = getattr(router.for_key(1, table="orders"), verb)
        with pytest.raises(ZeroDivisionError), ExitStack() as stack, block() as conn:
            conn.execute("insert into orders values (1, 1, 'x')")
            stack.enter_context(_late_answers(0.8))
            raise ZeroDivisionError
        with block() as conn:
            assert conn.execute("select n from orders").fetchall() == []


def test_a_load_that_was_confirmed_as_its_deadline_came_leaves_no_broken_connection(late_router: Router) -> None:
    def rows() -> Iterator[tuple[str, str]]:
        for number in range(200):
            if number == 150:
                _LateConnection.late = 1.5
            yield f"c{number}", "x"

    # Its tables are known then, and each shard has a connection.
    assert late_router.execute("delete from countries").rowcount == 0
    with _late_answers(0.0):
        loaded = late_router.copy_into("countries", rows(), columns=["code", "name"], timeout=1.0)
    assert loaded == dict.fromkeys(["s0", "s1", "s2", "s3"], 200)
    assert [result.one() for result in late_router.scatter("select count(*) from countries").values()] == [(200,)] * 4


def test_a_transaction_whose_connection_was_lost_unseen_is_not_a_success(router: Router) -> None:
    route = router.for_key(1, table="orders")
    with pytest.raises(psycopg.OperationalError, match="lost"), route.transaction() as conn:
        conn.execute("insert into orders values (1, 1, 'x')")
        with suppress(psycopg.Error):
            conn.execute("select pg_terminate_backend(pg_backend_pid())")
    assert route.execute("select n from orders").rows == []


@pytest.mark.skipif(os.environ.get(BACKEND_VARIABLE, "embedded") != "embedded", reason="signals a server's process")
@pytest.mark.parametrize("verb", ["connection", "transaction"])
def test_a_block_that_failed_ends_in_time_on_a_frozen_server_with_its_own_error(topology_path: str, verb: str) -> None:
    with Router(_with_timeout(topology_path, 0.5)) as router, ExitStack() as stack:
        block = getattr(router.for_key(1, table="orders"), verb)
        with pytest.raises(psycopg.errors.UniqueViolation), block() as conn:
            conn.execute("insert into orders values (1, 1, 'x')")
            stack.callback(_freeze(conn))
            started = monotonic()
            raise psycopg.errors.UniqueViolation("of the block")
        in_time(monotonic() - started, 1.5)


def _freeze(conn: psycopg.Connection[Any]) -> Callable[[], None]:
    """Stop the server's process of a connection; gives what lets it go on."""
    process = conn.info.backend_pid
    os.kill(process, signal.SIGSTOP)
    # One that nobody lets go on would stop the whole run: the end of its database waits for it.
    timer = threading.Timer(4, os.kill, (process, signal.SIGCONT))
    timer.start()

    def thaw() -> None:
        timer.cancel()
        os.kill(process, signal.SIGCONT)

    return thaw


class _LateConnection(psycopg.Connection[Any]):
    """One whose caller goes on a while after the server has answered: when a deadline has come meanwhile."""

    late = 0.0

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        answer = super().wait(*args, **kwargs)
        if self.late and self.pgconn.transaction_status == TransactionStatus.IDLE:
            threading.Event().wait(self.late)
        return answer


@contextmanager
def _late_answers(seconds: float) -> Iterator[None]:
    _LateConnection.late = seconds
    try:
        yield
    finally:
        _LateConnection.late = 0.0


@pytest.fixture
def late_router(topology_path: str) -> Iterator[Router]:
    with Router(topology_path, connection_class=_LateConnection) as opened:
        yield opened


def _with_timeout(topology_path: str, seconds: float) -> Topology:
    return replace(Router(topology_path).topology, timeout=seconds)


def _at_commit(route: Route, action: str) -> None:
    """Have the shard do something under the COMMIT of each insert into `orders`."""
    route.execute(
        f"""
        create function at_commit() returns trigger language plpgsql as
            $$ begin perform {action}; return null; end $$;
        create constraint trigger at_commit after insert on orders deferrable initially deferred
            for each row execute function at_commit()
        """
    )


def _wait_until_no_thread(watchdog: Watchdog) -> None:
    limit = monotonic() + 20
    while watchdog._thread is not None and watchdog._thread.is_alive():
        not_after(limit)
        threading.Event().wait(0.01)


class _InThread:
    """A call that runs in a thread of its own."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._error: BaseException | None = None
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        started = monotonic()
        try:
            self._function()
        except BaseException as error:
            self._error = error
        self.seconds = monotonic() - started

    def error(self) -> BaseException | None:
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self._error
