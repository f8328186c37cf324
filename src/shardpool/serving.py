"""`/healthz`, `/readyz` and `/metrics` of a router, on a thread of its own. Only the standard library is needed;
`/metrics` is there when prometheus-client is.

    with Health(router, listen="127.0.0.1:9188"):
        …

A request is bounded in time and size, and the number of those at a time too. A client that sends its request slowly
takes no place of those who have sent theirs, and is left when too many do so.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from importlib.util import find_spec
from ipaddress import ip_address
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from ._http import REQUEST_SECONDS, Answer, HttpServer, json_answer, plain
from ._runtime.tasks import async_run_all, run_all
from .errors import RouterMisuse, first_line

if TYPE_CHECKING:
    from ._async.router import AsyncRouter
    from ._sync.router import Router

DEFAULT_LISTEN = "127.0.0.1:9188"
# So many requests that are there and allowed are answered at a time.
REQUESTS_AT_A_TIME = 16
# Seconds for which an answer of the shards is given again: probes of many do not add up to a load.
_FRESH_SECONDS = 1.0

Quorum = int | str


class Health:
    """An HTTP server beside a router: `start()` and `stop()`, or a `with` block.

    `quorum` is how many shards have to answer for `/readyz` to say 200: a number, `"majority"` or `"all"`; each has
    `timeout` seconds. `listen` is `host:port`, with port 0 for a free one; another address than loopback needs a
    `token`, which clients send as `Authorization: Bearer …`. `hosts` are names that clients may call the server by,
    beside `localhost` and addresses. `/metrics` shows `registry` (default: this router's metrics alone).

    Raises `RouterMisuse` for what cannot be, `OSError` from `start()` when the address is taken.
    """

    def __init__(
        self,
        router: Router | AsyncRouter,
        *,
        quorum: Quorum = "majority",
        listen: str = DEFAULT_LISTEN,
        token: str | None = None,
        hosts: Sequence[str] = (),
        timeout: float = 1.0,
        registry: Any = None,
    ) -> None:
        self._router = router
        shards = len(router.topology.shards)
        if self._needed(quorum, shards) > shards:
            raise RouterMisuse(f"quorum {quorum} can never be had: the fleet has {shards} shards")
        self._quorum = quorum
        self._listen = _host_and_port(listen)
        self._token = token or None
        if self._token is None and not _is_loopback(self._listen[0]):
            raise RouterMisuse(
                f"{listen} can be reached from other machines, and no token is asked for",
                hint="Give a token, or listen on 127.0.0.1.",
            )
        self._hosts = frozenset({"localhost", *(name.lower() for name in hosts)})
        self._timeout = timeout
        self._registry = registry
        self._asking = threading.Lock()
        self._turns = threading.BoundedSemaphore(REQUESTS_AT_A_TIME)
        self._answer: tuple[float, dict[str, Any]] | None = None
        self._server: HttpServer | None = None
        self._thread: threading.Thread | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen from now on. Starting what is started does nothing."""
        if self._server is None:
            self._server = HttpServer(self._listen, self)
            self._thread = threading.Thread(
                target=self._server.serve_forever, args=(0.1,), name="shardpool-health", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Listen no more; requests under way end within their bounds by themselves."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            server.shutdown()
            server.server_close()
            thread.join(2.0)

    def __enter__(self) -> Health:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """`host:port` as it was bound; raises `RouterMisuse` when it is not started."""
        if self._server is None:
            raise RouterMisuse("this server is not started")
        host, port = self._server.server_address[:2]
        return f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"

    # -- answers -------------------------------------------------------------------------------------------------

    def readiness(self) -> dict[str, Any]:
        """What `/readyz` says: every shard's primary asked for an answer, side by side, within `timeout` seconds."""
        with self._asking:
            if self._answer is not None and monotonic() - self._answer[0] < _FRESH_SECONDS:
                return self._answer[1]
            answer = self._ask()
            self._answer = monotonic(), answer
            return answer

    def _ask(self) -> dict[str, Any]:
        topology = self._router.topology
        shards = _ask_shards(self._router, list(topology.shards), self._timeout)
        well = sum(shard["ok"] for shard in shards.values())
        needed = self._needed(self._quorum, len(shards))
        return {
            "ready": well >= needed,
            "fleet": topology.fleet,
            "epoch": topology.epoch,
            "needed": needed,
            "well": well,
            "shards": shards,
        }

    @staticmethod
    def _needed(quorum: Quorum, shards: int) -> int:
        match quorum:
            case "all":
                return shards
            case "majority":
                return shards // 2 + 1
            case int() if quorum >= 1:
                return quorum
        raise RouterMisuse(f"quorum {quorum!r} is not a number above 0, 'majority' or 'all'")

    def answer(self, method: str, path: str, header: Callable[[str], str | None]) -> Answer:
        """Status, content type and body of a request."""
        refused = self._refusal(header)
        if refused is not None:
            return refused
        page = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics}.get(path.split("?")[0])
        if page is None:
            return plain(404, "there are /healthz, /readyz and /metrics")
        if method not in ("GET", "HEAD"):
            return plain(405, "only GET and HEAD")
        if page == self._healthz:
            # It says that the process is there, and waits for nothing.
            return page()
        if not self._turns.acquire(timeout=REQUEST_SECONDS):
            return plain(503, "too many requests at a time")
        try:
            return page()
        finally:
            self._turns.release()

    def _refusal(self, header: Callable[[str], str | None]) -> Answer | None:
        # A page of a name that has been made to resolve to this address is told apart by the name that it calls.
        host = header("Host")
        if host is None or not self._is_known(host):
            return plain(403, "unknown Host")
        origin = header("Origin")
        if origin is not None and _netloc(origin) != host.lower():
            return plain(403, "unknown Origin")
        if self._token is not None:
            # Headers are read as Latin-1, whatever they are.
            given = (header("Authorization") or "").encode("latin-1", "replace")
            if not hmac.compare_digest(given, b"Bearer " + self._token.encode()):
                return plain(401, "a token is needed")
        return None

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts or _is_address(name)

    def _healthz(self) -> Answer:
        return json_answer(200, {"ok": True})

    def _readyz(self) -> Answer:
        state = self.readiness()
        return json_answer(200 if state["ready"] else 503, state)

    def _metrics(self) -> Answer:
        if find_spec("prometheus_client") is None:
            return plain(404, "prometheus-client is not installed: pip install 'shardpool[prometheus]'")
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

        from .prometheus import ShardpoolCollector

        if self._registry is None:
            registry = CollectorRegistry()
            registry.register(ShardpoolCollector(self._router))
            self._registry = registry
        return 200, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self._registry)


# -- the shards --------------------------------------------------------------------------------------------------


def _ask_shards(router: Router | AsyncRouter, names: list[str], timeout: float) -> dict[str, dict[str, Any]]:
    """Whether each shard's primary answers, and in how many seconds."""
    if hasattr(router, "__aenter__"):
        return _ask_on_its_loop(cast("AsyncRouter", router), names, timeout)

    def ask(name: str) -> float:
        begun = monotonic()
        router.shard(name).execute("select 1", timeout=timeout)
        return monotonic() - begun

    return _outcomes(names, run_all([partial(ask, name) for name in names]))


def _ask_on_its_loop(router: AsyncRouter, names: list[str], timeout: float) -> dict[str, dict[str, Any]]:
    async def ask(name: str) -> float:
        begun = monotonic()
        await router.shard(name).execute("select 1", timeout=timeout)
        return monotonic() - begun

    home = router._fleet.home
    if home is None:
        return _outcomes(names, [(None, RouterMisuse("this router is not open"))] * len(names))
    asked = asyncio.run_coroutine_threadsafe(async_run_all([partial(ask, name) for name in names]), home.loop)
    try:
        return _outcomes(names, asked.result(timeout + 1.0))
    except FutureTimeout:
        asked.cancel()
        return _outcomes(names, [(None, TimeoutError("the event loop of the router is blocked"))] * len(names))


def _outcomes(names: list[str], outcomes: Sequence[tuple[Any, BaseException | None]]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "ok": error is None,
            "seconds": None if error is not None else round(seconds, 6),
            "error": None if error is None else type(error).__name__,
            "message": None if error is None else first_line(error),
        }
        for name, (seconds, error) in zip(names, outcomes, strict=True)
    }


def _host_and_port(listen: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{listen}")
        if parts.hostname and parts.port is not None:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise RouterMisuse(f"{listen!r} is not host:port", hint=f"For example {DEFAULT_LISTEN}.")


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)
