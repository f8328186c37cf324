"""What keeps the queries that shardpool itself runs from meaning something else than they say. Pure: SQL text.

Whoever may create things in a schema of the search_path could have their own functions, operators and types run by the
role of the router: by being found first, or by fitting the arguments better than PostgreSQL's own do
(https://www.postgresql.org/docs/current/typeconv-func.html). So functions and types are written with their schema,
operators get theirs from `qualified`, and sessions of no caller begin with `OWN_SESSION`.
"""

from __future__ import annotations

import re

_OPERATOR = re.compile(r"(?<=\s)(?:<>|[<>]=?|=|!?~|\|\||->>?|<@|[-+&/]|(?<!select )\*(?! from))(?=\s)", re.IGNORECASE)

_ARITHMETIC = re.compile(r"(?<=\s)(?:<<|>>|\|\||[-+*/%&|#<>])(?=\s)")
# A function that is called for each row: to set its search_path would take it longer than all that it does.
_COMPUTING = re.compile(r"(?<=LANGUAGE plpgsql IMMUTABLE )([^$]*\$body\$)(.*?)(?=\$body\$)", re.DOTALL)

EPOCH_LOCK_CLASS = 1936747624
"""The first number of the advisory locks by which sessions declare their epoch; the second is the epoch."""

OWN_EPOCH = 2**31 - 1
"""The epoch that shardpool's own sessions declare, later than any: who waits for routers does not wait for them."""

OWN_SESSION = f"""
select pg_catalog.pg_advisory_lock_shared({EPOCH_LOCK_CLASS}, {OWN_EPOCH});
set search_path = pg_catalog, pg_temp;
set quote_all_identifiers = off;
set datestyle = iso;
set intervalstyle = postgres;
set extra_float_digits = 3;
set bytea_output = hex;
set array_nulls = on;
set xmloption = content;
set transform_null_equals = off;
set standard_conforming_strings = on;
"""
"""What a session begins with that serves nobody but shardpool, as that of pg_dump does."""


def qualified(query: str) -> str:
    """A query with each operator that stands between blanks as PostgreSQL's own: `a = b`, not `a=b` or `set a = b`.

    Written so, all operators bind alike, from left to right and closer than NOT: the rest takes parentheses. What names
    no operator but looks for one has no place in it: IN, BETWEEN, LIKE, NULLIF, IS DISTINCT FROM, USING (…).
    """
    return _OPERATOR.sub(_own, query)


def computing(script: str) -> str:
    """A script in which the bodies of IMMUTABLE functions of PL/pgSQL have PostgreSQL's own operators, as above."""
    return _COMPUTING.sub(lambda found: found[1] + _ARITHMETIC.sub(_own, found[2]), script)


def _own(operator: re.Match[str]) -> str:
    return f"operator(pg_catalog.{operator.group()})"
