"""Names and texts as SQL writes them. Pure."""

from __future__ import annotations


def quote_ident(name: str) -> str:
    """A name as SQL writes it; raises `ValueError` for one that no PostgreSQL name can be."""
    if not name or "\0" in name:
        raise ValueError(f"not a name: {name!r}")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """A text as a literal that reads alike with `standard_conforming_strings` on and off."""
    if "\0" in text:
        raise ValueError("a literal holds no NUL character")
    quoted = "'" + text.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def quote_table(table: str) -> str:
    """`schema.table` or `table`, each part quoted."""
    return ".".join(quote_ident(part) for part in table.split(".", 1))
