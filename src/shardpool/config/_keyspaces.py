"""Keyspaces of the file → `Keyspace` values."""

from __future__ import annotations

from ..partitioning import STRATEGIES
from ..topology import Keyspace, owner_ranges, qualified
from . import _models as models
from ._nodes import YamlNode
from ._placements import PLACE_BY_FIELD, Placement, ShardNames
from ._problems import Problems

_STRATEGY_BY_FIELD = {"pinned": "hash", "default": "list"}


def build_keyspaces(
    file: models.TopologyFile, root: YamlNode, names: ShardNames, problems: Problems
) -> dict[str, Keyspace]:
    """All keyspaces that can be made, in file order; what is wrong goes to the problems."""
    keyspaces: dict[str, Keyspace] = {}
    for name, fields in file.keyspaces.items():
        node = root.fields["keyspaces"].fields[name]
        _check_strategies(node, problems)
        _check_key_columns(fields, node, problems)
        placement = _placement(fields, node, names, problems)
        if placement is not None:
            keyspaces[name] = _keyspace(name, fields, placement, file.epoch)
    return keyspaces


def _keyspace(name: str, fields: models.KeyspaceFields, placement: Placement, epoch: int) -> Keyspace:
    partitioning, shard_by_bucket = placement
    owners = owner_ranges(shard_by_bucket, [epoch] * len(shard_by_bucket))
    return Keyspace(name, partitioning, owners, {qualified(table): columns for table, columns in fields.tables.items()})


def _placement(
    fields: models.KeyspaceFields, node: YamlNode, names: ShardNames, problems: Problems
) -> Placement | None:
    for field, place in PLACE_BY_FIELD.items():
        if getattr(fields, field) is not None:
            return place(fields, node, names, problems)
    return None


def _check_strategies(node: YamlNode, problems: Problems) -> None:
    given = [strategy for strategy in STRATEGIES if strategy in node.fields]
    broken = set(STRATEGIES) & set(node.lost)
    if not given and not broken:
        problems.add_at_key(node, "needs hash, range or list", "One of them says how keys are placed.")
    if len(given) > 1:
        message = f"{' and '.join(given)} in one keyspace"
        problems.add_at_key(node.fields[given[1]], message, "Keep one of them; another keyspace can have the other.")
    for field, strategy in _STRATEGY_BY_FIELD.items():
        place = node.at(field)
        if place is not None and given and strategy not in (*given, *broken):
            problems.add_at_key(place, f"{field} without {strategy}", f"Only a keyspace with {strategy} has it.")


def _check_key_columns(fields: models.KeyspaceFields, node: YamlNode, problems: Problems) -> None:
    for table, columns in fields.tables.items():
        place = node.fields["tables"].fields[table]
        if len(columns) != len(fields.key):
            message = f"{len(columns)} key column{'s' if len(columns) > 1 else ''} for a key of {len(fields.key)}"
            problems.add(place, message, f"Name one column for each of: {', '.join(fields.key)}.")
        elif len(set(columns)) < len(columns):
            problems.add(place, "a key column is named twice", "Each part of the key has a column of its own.")
