"""`python -m tests.faults --seconds 600`: random faults on real servers under load; exits with 1 on a violation."""

from __future__ import annotations

import argparse
import logging

from .soak import isolation, soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default: ten minutes)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    for line in isolation():
        print(line, flush=True)
    violations = soak(given.seconds, given.seed, lambda line: print(line, flush=True))
    for violation in violations[:50]:
        print(f"VIOLATION: {violation}")
    print(f"{len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
