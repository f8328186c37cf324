"""Tables of the whole file: each in one place only."""

from __future__ import annotations

from collections.abc import Iterator

from ..topology import qualified
from ._nodes import YamlNode
from ._problems import Problems


def check_tables(root: YamlNode, problems: Problems) -> None:
    """Report every table that is declared more than once, at its later places."""
    declared: dict[str, str] = {}
    for table, node, where in sorted(_declared(root), key=lambda found: (found[1].key_line, found[1].key_column)):
        first = declared.setdefault(qualified(table), where)
        if first is not where:
            hint = "A table is in one keyspace, or a reference table, or on a single shard."
            problems.add_at_key(node, f"table {table} is declared already: {first}", hint)


def _declared(root: YamlNode) -> Iterator[tuple[str, YamlNode, str]]:
    keyspaces = root.at("keyspaces")
    for name, keyspace in (keyspaces.fields if keyspaces else {}).items():
        tables = keyspace.at("tables")
        for table, node in (tables.fields if tables else {}).items():
            yield str(table), node, f"in keyspace {name}, line {node.key_line}"
    reference = root.at("reference_tables")
    for node in reference.items if reference else []:
        yield node.text, node, f"a reference table, line {node.line}"
    single = root.at("single_tables")
    for table, node in (single.fields if single else {}).items():
        yield str(table), node, f"a single table, line {node.key_line}"
