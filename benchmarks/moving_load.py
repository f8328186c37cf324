"""A service beside a move: `python -m benchmarks.moving_load FILE OUT KEYS`, until its standard input ends.

Threads write and read keys of the ledger, in statements and transactions, through one router. OUT gets a line for each
call: what it was, whether its key is one of those that move, when it began on the clock of all processes, its seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from threading import Event, Thread
from time import monotonic
from typing import Any

from shardpool import Router

_PAUSE = 0.004
_TIMEOUT = 30.0
_WRITE = "update ledger set version = version + 1 where tenant_id = %s"
_READ = "select version from ledger where tenant_id = %s"


def work(router: Router, mine: Sequence[tuple[int, bool]], seed: int, stop: Event, lines: list[str]) -> None:
    rng = Random(seed)

    def transaction(route: Any, key: int) -> None:
        with route.transaction(timeout=_TIMEOUT) as conn:
            conn.execute(_WRITE, (key,))
            conn.execute(_READ, (key,))

    while not stop.wait(_PAUSE):
        key, moves = rng.choice(mine)
        what = rng.choice(("write", "write", "read", "transaction"))
        route = router.for_key(key)
        begun = monotonic()
        if what == "write":
            assert route.execute(_WRITE, (key,), timeout=_TIMEOUT).rowcount == 1
        elif what == "read":
            assert len(route.execute(_READ, (key,), timeout=_TIMEOUT).rows) == 1
        else:
            transaction(route, key)
        lines.append(f"{what} {int(moves)} {begun:.6f} {monotonic() - begun:.6f}")


def main(path: str, out: str, keys: str, threads: int = 3) -> None:
    mine = [(int(key.rstrip("m")), key.endswith("m")) for key in keys.split(",")]
    stop, lines, failures = Event(), list[str](), list[BaseException]()

    def guarded(seed: int) -> None:
        try:
            work(router, mine, seed, stop, lines)
        except BaseException as error:
            failures.append(error)

    with Router(path, reload_interval=1.0) as router:
        running = [Thread(target=guarded, args=(seed,)) for seed in range(threads)]
        for thread in running:
            thread.start()
        sys.stdin.read()
        stop.set()
        for thread in running:
            thread.join()
    Path(out).write_text("\n".join(lines), encoding="utf-8")
    if failures:
        raise failures[0]


if __name__ == "__main__":
    main(*sys.argv[1:])
