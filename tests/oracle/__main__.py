"""`python -m tests.oracle --statements 5000 --seed 1`: random statements on the router and on one
server, and a summary.

`--self` compares the plain server with a second one whose rows lie in another order: a proof of the generator and of
the comparison, without a router. `--show` prints the statements.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

from shardpool.testing import EmbeddedFleet

from .compare import Different
from .fleet import made
from .generator import Statements
from .run import Tally, ask


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle")
    parser.add_argument("--statements", type=int, default=1000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--stop", action="store_true", help="end at the first wrong answer")
    parser.add_argument("--self", action="store_true", dest="itself", help="plain server against plain server")
    parser.add_argument("--show", action="store_true", help="print every statement")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first statements of the seed")
    given = parser.parse_args()
    servers = EmbeddedFleet()
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            made(servers.servers(), Path(folder)) as oracle,
            oracle.connect() as plain,
            oracle.connect("shuffled") as shuffled,
        ):
            tally = Tally()
            begun = time.perf_counter()
            cases = itertools.islice(Statements(given.seed), given.skip, given.skip + given.statements)
            for number, case in enumerate(cases, given.skip):
                if given.show:
                    print(f"-- {number} {case.kind}\n{case.sql}; -- {case.params!r}", flush=True)
                try:
                    ask(tally, plain, shuffled if given.itself else oracle.router, case, number)
                except Different as wrong:
                    print(f"WRONG: {number} ({case.kind})\n{wrong}\n", flush=True)
                    if given.stop:
                        break
            seconds = time.perf_counter() - begun
    finally:
        servers.close()
    print(tally.summary(seconds))
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
