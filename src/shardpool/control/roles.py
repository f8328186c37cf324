"""What `check` warns of although all works: a role that may do more than it needs, or less. Pure.

https://www.postgresql.org/docs/18/predefined-roles.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..report import Finding

ROLE = """
    select r.rolname::text, r.rolsuper,
           pg_catalog.pg_has_role(r.oid, 'pg_read_all_data', 'usage'),
           pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMP')
    from pg_catalog.pg_roles r where r.rolname operator(pg_catalog.=) current_user
"""
"""One row: the role that is connected, whether it is a superuser, reads everything, may make temporary tables."""


def role_findings(row: Sequence[Any], subject: str) -> Iterator[Finding]:
    """Warnings of the role that `ROLE` has told of, on the endpoint `subject`."""
    name, is_superuser, reads_everything, may_make_temporary = row
    see = "See docs/howto/security.md for the grants that each role needs."
    if is_superuser:
        yield Finding("warning", subject, f"role {name} is a superuser, which no router needs", see)
    elif reads_everything:
        yield Finding("warning", subject, f"role {name} reads every table (pg_read_all_data)", see)
    if not may_make_temporary:
        what = f"role {name} may not make temporary tables: SQL whose rows have to be brought together fails"
        yield Finding("warning", subject, what, f"grant temporary on database … to {name}")
