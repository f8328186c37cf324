"""A TCP proxy in front of one PostgreSQL server whose network can be made to fail, and be well again, at any time."""

from __future__ import annotations

import queue
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from .messages import Frontend

_CHUNK = 1 << 18
# Bytes held for a side that does not read, above which the other side is not read either.
_HELD = 1 << 20
_RESET = struct.pack("ii", 1, 0)
_WAIT_SECONDS = 5.0


@dataclass(frozen=True)
class Pass:
    """Everything passes."""


@dataclass(frozen=True)
class Delay:
    """Every chunk passes, in each direction, so many seconds later."""

    seconds: float


@dataclass(frozen=True)
class BlackHole:
    """Bytes are swallowed, and nothing closes; connections from which bytes were swallowed stay dead for good.

    With `accepts` new connections are made and get no answer; without, not even that.
    """

    accepts: bool = True


@dataclass(frozen=True)
class Reset:
    """All connections are reset, and so is each new one."""


@dataclass(frozen=True)
class Refuse:
    """Nobody listens, and all connections are closed."""


@dataclass(frozen=True)
class Cut:
    """A connection is reset when its client sends a statement that holds the marker, in any case of letters.

    The server does not get the statement; with `answer` it does, and what it answers is dropped. At most `times`. A
    `silent` one is not reset: neither side hears of the other any more.
    """

    marker: bytes
    answer: bool = False
    times: int = 1 << 30
    silent: bool = False


Mode = Pass | Delay | BlackHole | Reset | Refuse | Cut


class Proxy:
    """Listens on a port of loopback that it keeps over all modes, and connects to `target`."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.cuts = 0
        self._mode: Mode = Pass()
        self._links: set[_Link] = set()
        self._delayed: set[_Link] = set()
        self._selector = selectors.DefaultSelector()
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ, self._answer_bell)
        self._fillers: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._ended = False
        self.port = self._listen(0)
        self._thread = threading.Thread(target=self._run, name=f"proxy-{target[1]}", daemon=True)
        self._thread.start()

    @property
    def mode(self) -> Mode:
        return self._mode

    @property
    def connections(self) -> int:
        return len(self._links)

    def set(self, mode: Mode) -> None:
        """Change the mode; returns when it holds."""
        self._order(lambda: self._change(mode))

    def reset_all(self) -> None:
        """Reset the connections of now, in any mode."""
        self._order(self._reset_links)

    def reset_dead(self) -> None:
        """Reset the connections from which bytes were swallowed: the server's side of them waits for ever."""

        def reset() -> None:
            for link in [link for link in self._links if link.is_dead]:
                link.reset()

        self._order(reset)

    def point_at(self, target: tuple[str, int]) -> None:
        """Have new connections go to another server; those of now are reset."""

        def change() -> None:
            self.target = target
            self._reset_links()

        self._order(change)

    def close(self) -> None:
        def end() -> None:
            self._ended = True

        if self._thread.is_alive():
            self._order(end)
            self._thread.join(_WAIT_SECONDS)

    # -- orders from other threads -------------------------------------------------------------------------------

    def _order(self, what: Callable[[], None]) -> None:
        done = threading.Event()

        def carry_out() -> None:
            try:
                what()
            finally:
                done.set()

        self._orders.put(carry_out)
        self._ringer.send(b"!")
        if not done.wait(_WAIT_SECONDS):
            raise RuntimeError("the proxy's thread does not answer")

    def _answer_bell(self, _: int) -> None:
        with suppress(BlockingIOError):
            self._bell.recv(4096)
        while not self._orders.empty():
            self._orders.get()()

    def _change(self, mode: Mode) -> None:
        self._mode = mode
        self.cuts = 0
        if isinstance(mode, Reset | Refuse):
            self._reset_links()
        self._unblock()
        if mode == Refuse():
            self._stop_listening()
        elif self._listener is None:
            self._listen(self.port)
        if mode == BlackHole(accepts=False):
            self._block()
        for link in list(self._links):
            link.resume()

    # -- the listener --------------------------------------------------------------------------------------------

    def _listen(self, port: int) -> int:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(256)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        return int(self._listener.getsockname()[1])

    def _stop_listening(self) -> None:
        if self._listener is not None:
            with suppress(KeyError):
                self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _block(self) -> None:
        """Fill the queue of connections that nobody has accepted: the kernel drops the SYN of the others."""
        assert self._listener is not None
        self._selector.unregister(self._listener)
        self._listener.listen(0)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    def _unblock(self) -> None:
        if not self._fillers:
            return
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        if self._listener is not None:
            self._listener.listen(256)
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self, _: int) -> None:
        while self._listener is not None:
            try:
                client, _address = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            if isinstance(self._mode, Reset):
                _reset(client)
            else:
                self._links.add(_Link(self, client))

    def _reset_links(self) -> None:
        for link in list(self._links):
            link.reset()

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._ended:
                for key, events in self._selector.select(self._pump_due()):
                    key.data(events)
        finally:
            self._reset_links()
            self._stop_listening()
            for filler in self._fillers:
                filler.close()
            self._selector.close()
            self._bell.close()
            self._ringer.close()

    def _pump_due(self) -> float | None:
        """Let pass what was delayed until now; gives the seconds until the next is due."""
        now = monotonic()
        later: list[float] = []
        for link in list(self._delayed):
            times = link.due_times()
            if not times:
                self._delayed.discard(link)
            if any(time <= now for time in times):
                link.resume()
            later += [time for time in times if time > now]
        return max(0.0, min(later) - monotonic()) if later else None


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self.proxy = proxy
        self.frontend = Frontend()
        # What was swallowed is missing for ever.
        self.is_dead = isinstance(proxy.mode, BlackHole)
        self.drops_answer = False
        server = socket.socket()
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.up = _Direction(self, client, server)
        self.down = _Direction(self, server, client)
        self.up.is_connecting = not self.is_dead
        self.down.at_end = self.is_dead
        self.is_closed = False
        self._events: dict[socket.socket, int] = {}
        if not self.is_dead:
            server.connect_ex(proxy.target)
        self.resume()

    def handle(self, end: socket.socket, events: int) -> None:
        reads, writes = (self.up, self.down) if end is self.up.source else (self.down, self.up)
        try:
            if events & selectors.EVENT_WRITE:
                writes.write()
            if events & selectors.EVENT_READ:
                reads.read()
        except OSError:
            self.reset()
        else:
            self.resume()

    def due_times(self) -> list[float]:
        return [way.held[0][0] for way in (self.up, self.down) if way.held and way.held[0][0] > 0]

    def resume(self) -> None:
        """Register what each end waits for now; close both when both have ended."""
        if self.is_closed:
            return
        if self.up.has_ended and self.down.has_ended and not self.is_dead:
            self._close()
            return
        for reads, writes in ((self.up, self.down), (self.down, self.up)):
            wanted = selectors.EVENT_READ if reads.wants_data else 0
            wanted |= selectors.EVENT_WRITE if writes.wants_room else 0
            self._want(reads.source, wanted)

    def _want(self, end: socket.socket, wanted: int) -> None:
        current = self._events.get(end, 0)
        if wanted == current:
            return
        selector = self.proxy._selector

        def handle(events: int) -> None:
            self.handle(end, events)

        if not current:
            selector.register(end, wanted, handle)
        elif not wanted:
            selector.unregister(end)
        else:
            selector.modify(end, wanted, handle)
        self._events[end] = wanted

    def reset(self) -> None:
        self._leave()
        _reset(self.up.source)
        _reset(self.up.target)

    def _close(self) -> None:
        self._leave()
        self.up.source.close()
        self.up.target.close()

    def _leave(self) -> None:
        self.is_closed = True
        self.proxy._delayed.discard(self)
        for end in (self.up.source, self.up.target):
            self._want(end, 0)
        self.proxy._links.discard(self)


class _Direction:
    """What one end sends to the other: `held` are chunks with the time before which they may not pass (0: none)."""

    def __init__(self, link: _Link, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.held: deque[tuple[float, memoryview]] = deque()
        self.is_connecting = False
        self.has_ended = False
        self._link = link
        self.at_end = False
        self._size = 0

    @property
    def wants_data(self) -> bool:
        other = self._link.down if self is self._link.up else self._link.up
        return not self.at_end and self._size < _HELD and not other.is_connecting

    @property
    def wants_room(self) -> bool:
        return self.is_connecting or bool(self.held and self.held[0][0] <= monotonic())

    def read(self) -> None:
        try:
            data = self.source.recv(_CHUNK)
        except BlockingIOError:
            return
        link, mode = self._link, self._link.proxy.mode
        if isinstance(mode, BlackHole):
            link.is_dead = True
        if not data:
            # That one end closed is not told to the other one through a black hole.
            self.at_end = True
            self.has_ended = link.is_dead
            self._finish()
            return
        if link.is_dead:
            return
        if self is link.up:
            data = self._examine(data, mode)
        elif link.drops_answer:
            if isinstance(mode, Cut) and mode.silent:
                link.is_dead = True
            else:
                link.reset()
            return
        if data:
            due = monotonic() + mode.seconds if isinstance(mode, Delay) else 0.0
            self.held.append((due, memoryview(data)))
            self._size += len(data)
            if due:
                link.proxy._delayed.add(link)
            else:
                self.write()

    def _examine(self, data: bytes, mode: Mode) -> bytes:
        """The data, or what of it comes before a message at which the connection is cut."""
        link = self._link
        for begin, sql in link.frontend.feed(data):
            proxy = link.proxy
            if isinstance(mode, Cut) and mode.marker.lower() in sql.lower() and proxy.cuts < mode.times:
                proxy.cuts += 1
                if mode.answer:
                    link.drops_answer = True
                    return data
                with suppress(OSError):
                    self.target.send(data[:begin])
                if mode.silent:
                    link.is_dead = True
                else:
                    link.reset()
                return b""
        return data

    def write(self) -> None:
        if self.is_connecting:
            error = self.target.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "connect")
            self.is_connecting = False
        while self.held and self.held[0][0] <= monotonic():
            due, data = self.held[0]
            try:
                sent = self.target.send(data)
            except BlockingIOError:
                return
            self._size -= sent
            if sent < len(data):
                self.held[0] = (due, data[sent:])
                return
            self.held.popleft()
        self._finish()

    def _finish(self) -> None:
        """Pass the end on when all before it has passed."""
        if self.at_end and not self.held and not self.has_ended and not self.is_connecting:
            self.has_ended = True
            with suppress(OSError):
                self.target.shutdown(socket.SHUT_WR)


def _reset(end: Any) -> None:
    """Close with RST instead of FIN, whatever has not been sent."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.close()
