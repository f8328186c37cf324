"""Numbers of sequences in INSERT and SELECT: each becomes a parameter, for which the router has a number at hand.

The sequence of one shard numbers the rows of all, whatever the key of the table is. So the columns that a sequence
numbers are given by the statement, and where the row belongs is known before it is sent.
See docs/adr/0053-numbers-come-in-blocks.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import UnsupportedQuery
from ...topology import Sharded, Topology
from ..analysis.catalog import Catalog, Column, Table
from ..analysis.listed import Listed
from ..text.names import NAMELESS, output_name
from ..text.statement import assigned, deparse, enum_name, expression, inner, kind, parse, strings, verb, walk
from ..text.template import Template, untimed
from ..text.tree import copy, parts, put

_SYSTEM_VALUE = 3
_BELOW = ("SubLink", "SelectStmt")


@dataclass(frozen=True, slots=True)
class Numbers:
    """A statement with a parameter in the place of each number that a sequence gives.

    `text` is for psycopg. `places` are its parameters in their order: the number of one of the caller's, or the name of
    the sequence that gives it. `columns` are those that are numbered, `counts` how many numbers each sequence gives.
    Where all numbers are of one sequence, and `behind` the caller's parameters, that is its name.
    """

    text: str
    places: tuple[int | str, ...]
    columns: frozenset[str]
    counts: Mapping[str, int]
    behind: str = ""

    def params(self, values: Sequence[Any], numbers_by_sequence: Mapping[str, Sequence[Any]]) -> list[Any]:
        """The parameters, of the caller's `values` and of the numbers."""
        numbers = {name: iter(found) for name, found in numbers_by_sequence.items()}
        return [values[place - 1] if type(place) is int else next(numbers[place]) for place in self.places]  # type: ignore[index]


def numbered(tree: Any, topology: Topology, catalog: Catalog, listed: Listed | None = None) -> Numbers | None:
    """The statement with its numbers as parameters; None where there are none that are known before it is run.

    Of a statement whose rows are `listed` the tree has a sample.
    """
    if kind(tree) == "SelectStmt" and not (tree.from_clause or tree.HasField("larg") or tree.HasField("with_clause")):
        return _of_select(tree)
    if not any(kind(found) == "InsertStmt" for found in walk(tree)):
        return None
    tree = copy(tree)
    numbering = _Numbering(max(_params(tree, listed), default=0))
    for node in [found for found in walk(tree) if kind(found) == "InsertStmt"]:
        name = catalog.resolve(node.relation.schemaname, node.relation.relname) or ""
        placement = topology.placements.get(name)
        if isinstance(placement, Sharded) and name in catalog.tables:
            table, key = catalog.tables[name], placement.key_columns
            listed = numbering.insert(node, table, key, listed, is_whole=node is tree)
    return numbering.result(tree, listed) if numbering.sequences else None


def drawn_columns(table: Table, key: Sequence[str]) -> dict[str, Column]:
    """The columns of a sharded table that get a number of the fleet where no value is given.

    Where a sequence takes steps, each shard has numbers of its own, and numbers its rows itself, but for their key.
    """
    return {
        column.name: column
        for column in table.columns
        if column.sequence is not None and column.default and (column.name in key or abs(column.sequence.step) == 1)
    }


def numbered_rows(tree: Any, table: Table, key: Sequence[str], given: Sequence[str]) -> list[Column]:
    """The columns that an INSERT of a SELECT leaves to a sequence: numbered when it is known how many rows come."""
    if not tree.HasField("select_stmt") or inner(tree.select_stmt).values_lists:
        return []
    return [column for name, column in drawn_columns(table, key).items() if name not in given and is_number(column)]


def is_number(column: Column) -> bool:
    """Whether the default of a column is the number of its sequence, and nothing that is made of it."""
    return column.default == "identity" or kind(inner(expression(column.default or "null"))) == "FuncCall"


def draws(tree: Any) -> bool:
    """Whether a part of a statement calls nextval()."""
    return any(kind(found) == "FuncCall" and is_nextval(found) for found in walk(tree))


def without_draws(tree: Any) -> Any:
    """The tree without calls of nextval(): the shard that numbers answers them for the whole fleet."""
    found = copy(tree)
    for part in walk(found):
        if kind(part) == "FuncCall" and strings(part.funcname)[-1] in ("nextval", "pg_get_serial_sequence"):
            part.funcname[-1].string.sval = "abs"
            del part.args[:]
    return found


def refuse_numbers_of_shards(tree: Any, topology: Topology, catalog: Catalog) -> None:
    """Raise `UnsupportedQuery` where the shard of a row would number it by itself."""
    writes = [found for found in walk(tree) if kind(found) in ("InsertStmt", "UpdateStmt", "MergeStmt")]
    for node in writes:
        name = catalog.resolve(node.relation.schemaname, node.relation.relname) or ""
        placement = topology.placements.get(name)
        if isinstance(placement, Sharded) and name in catalog.tables:
            table = catalog.tables[name]
            left = _left_out(node, table, is_whole=node is tree) & drawn_columns(table, placement.key_columns).keys()
            if left:
                raise _by_shard(f"{verb(node)} of {name.removeprefix('public.')} leaves {', '.join(sorted(left))} out")
    if draws(tree) and any(_is_sharded(found, topology, catalog) for found in walk(tree)):
        rest = tree
        if kind(tree) == "InsertStmt" and _is_sharded(tree.relation, topology, catalog):
            # One shard, which numbers, makes these rows.
            rest = copy(tree)
            rest.ClearField("select_stmt")
        if draws(rest):
            raise _by_shard("nextval() is called for rows of a sharded table")


def _is_sharded(found: Any, topology: Topology, catalog: Catalog) -> bool:
    if kind(found) != "RangeVar":
        return False
    return isinstance(topology.placements.get(catalog.resolve(found.schemaname, found.relname) or ""), Sharded)


def _left_out(node: Any, table: Table, *, is_whole: bool) -> set[str]:
    """The columns that a write leaves to their defaults; of an INSERT at the top that is seen elsewhere."""
    names = [column.name for column in table.columns]
    match kind(node):
        case "UpdateStmt":
            return _to_default(node.target_list)
        case "MergeStmt":
            clauses = [clause.merge_when_clause for clause in node.merge_when_clauses]
            inserts = [when for when in clauses if enum_name(when, "command_type") == "CMD_INSERT"]
            left = set().union(*(_to_default(when.target_list) for when in clauses))
            for when in inserts:
                given = [target.res_target.name for target in when.target_list] or names[: len(when.values)]
                pairs = zip(given, when.values, strict=False)
                left |= set(names) - {name for name, value in pairs if kind(inner(value)) != "SetToDefault"}
                left |= _overridden(when, table)
            return left
    left = _to_default(node.on_conflict_clause.target_list) | _overridden(node, table)
    if is_whole:
        return left
    given = [target.res_target.name for target in node.cols]
    if not given and node.HasField("select_stmt"):
        # `select *`: as many columns as there are, unless the server says otherwise.
        return left
    return left | (set(names) - set(given))


def _overridden(node: Any, table: Table) -> set[str]:
    """The columns whose values are not stored: of an INSERT of VALUES they have been numbered before."""
    is_said = enum_name(node, "override") == "OVERRIDING_USER_VALUE"
    return {column.name for column in table.columns if is_said and column.default == "identity"}


def _to_default(targets: Sequence[Any]) -> set[str]:
    return {name for name, value in assigned(targets) if kind(inner(value)) == "SetToDefault"}


def _by_shard(what: str) -> UnsupportedQuery:
    return UnsupportedQuery(
        f"{what}: the shard of the row would number it, and numbers would come again on others",
        hint="Draw the numbers first, by select nextval('…'), and pass them as parameters; or pass key=….",
    )


def _of_select(tree: Any) -> Numbers | None:
    """A SELECT without rows of its own, in which each call is made once."""
    if not any(map(_named, map(inner, _call_nodes(tree.target_list)))):
        return None
    tree = copy(tree)
    for target in tree.target_list:
        target.res_target.name = output_name(target.res_target).replace(NAMELESS, "")
    numbering = _Numbering(max(_params(tree, None), default=0))
    numbering.replace_calls(tree.target_list)
    return numbering.result(tree, None)


class _Numbering:
    """Numbers of parameters above those of the statement, and the sequence of each."""

    def __init__(self, highest: int) -> None:
        self._highest = highest
        self.sequences: dict[int, str] = {}
        self.columns: set[str] = set()

    def replace_calls(self, nodes: Sequence[Any], sequence: str | None = None) -> None:
        """Put parameters in the places of calls of nextval()."""
        for node in _call_nodes(nodes):
            name = sequence or _named(inner(node))
            if name is not None:
                node.CopyFrom(expression(f"{self._place(name)}::pg_catalog.int8"))

    def insert(self, node: Any, table: Table, key: Sequence[str], listed: Listed | None, *, is_whole: bool) -> Any:
        """Give an INSERT of VALUES the numbers that it leaves out, in its tree; gives its listed rows with theirs."""
        names = _given(node, table)
        if names is None:
            return listed
        if not node.HasField("select_stmt"):
            put(node.select_stmt, parse("values (1)")[0])
            del inner(node.select_stmt).values_lists[0].list.items[:]
        rows = [row.list.items for row in inner(node.select_stmt).values_lists]
        count = len(rows if listed is None else listed.cells)
        if listed is None:
            self.replace_calls([item for row in rows for item in row])
        columns = drawn_columns(table, key)
        places = [(at, columns[name]) for at, name in enumerate(names) if name in columns]
        behind = [column for name, column in columns.items() if name not in names]
        overriding = enum_name(node, "override")
        user_value = overriding == "OVERRIDING_USER_VALUE"

        def left_out(at: int, column: Column) -> list[bool]:
            if user_value and column.default == "identity":
                return [True] * count
            if listed is not None:
                return [row[at].lower() == "default" for row in listed.cells]
            return [kind(inner(row[at])) == "SetToDefault" for row in rows]

        filled = [(at, column, found) for at, column in places if any(found := left_out(at, column))]
        if not filled and not behind:
            return listed
        if overriding != "OVERRIDING_SYSTEM_VALUE" and not _may_override(table, names, filled, behind, user_value):
            return listed
        for name in [*(() if node.cols else names), *(column.name for column in behind)]:
            node.cols.add().res_target.name = name
        numbered_ = [*behind, *(column for _, column, _ in filled)]
        if user_value or any(column.sequence and column.sequence.always for column in numbered_):
            node.override = _SYSTEM_VALUE
        if is_whole:
            self.columns.update(column.name for _, column, found in filled if all(found))
            self.columns.update(column.name for column in behind)
        cells: Sequence[Any] = rows if listed is None else [list(row) for row in listed.cells]
        for number, row in enumerate(cells):
            values = [(at, self._value(column)) for at, column, found in filled if found[number]]
            more = [self._value(column) for column in behind]
            if listed is None:
                for at, value in values:
                    row[at].CopyFrom(expression(value))
                row.extend(expression(value) for value in more)
            else:
                for at, value in values:
                    row[at] = value
                row.extend(more)
        if listed is None:
            return None
        for row in rows:
            # The sample tells what stands around the rows, and how many values they have.
            row.extend(expression("null") for _ in behind)
        return replace(listed, cells=cells)

    def result(self, tree: Any, listed: Listed | None) -> Numbers:
        """The statement for psycopg."""
        found = untimed(tree)
        if listed is not None:
            rows = listed.rows(str(found))
            between: list[str | int] = [", "] * (2 * len(rows.rows) - 1)
            whole = [*rows.head.parts]
            for number, row in enumerate(rows.rows):
                whole += [*between[:1], *row.parts] if number else row.parts
            found = Template((*whole, *rows.tail.parts))
        text, numbers = found.for_psycopg()
        places = tuple(self.sequences.get(number, number) for number in numbers)
        counts = Counter(place for place in places if isinstance(place, str))
        own = [place for place in places if isinstance(place, int)]
        is_behind = len(counts) == 1 and [*places[: len(own)]] == own == [*range(1, len(own) + 1)]
        return Numbers(text, places, frozenset(self.columns), dict(counts), next(iter(counts)) if is_behind else "")

    def _place(self, sequence: str) -> str:
        """One more number of a sequence: its parameter."""
        number = self._highest + 1 + len(self.sequences)
        self.sequences[number] = sequence
        return f"${number}"

    def _value(self, column: Column) -> str:
        """SQL for the value of a column that is numbered."""
        assert column.sequence is not None
        default = expression(column.default or "")
        if is_number(column):
            return self._place(column.sequence.name)
        select = parse("select 1")[0]
        select.target_list[0].res_target.val.CopyFrom(default)
        self.replace_calls(select.target_list, column.sequence.name)
        return f"({deparse(select).removeprefix('SELECT ')})"


def _given(node: Any, table: Table) -> list[str] | None:
    """The columns that an INSERT of VALUES gives; None for another one, and for one that its server has to refuse."""
    if table.kind not in "rp" or any(target.res_target.indirection for target in node.cols):
        return None
    names = [target.res_target.name for target in node.cols]
    if not node.HasField("select_stmt"):
        return []
    lists = inner(node.select_stmt).values_lists
    widths = {len(row.list.items) for row in lists}
    if len(widths) != 1:
        return None
    width = widths.pop()
    names = names or [column.name for column in table.columns][:width]
    return names if len(names) == width and len(set(names)) == width else None


def _may_override(
    table: Table,
    names: Sequence[str],
    filled: Sequence[tuple[int, Column, Sequence[bool]]],
    behind: Sequence[Column],
    user_value: bool,
) -> bool:
    """Whether nothing is stored by OVERRIDING SYSTEM VALUE that would be refused, or ignored, without."""
    done = {column.name for column in behind} | {column.name for _, column, found in filled if all(found)}
    for column in table.columns:
        if column.default == "identity" and column.name not in done and column.name in names:
            always = column.sequence is not None and column.sequence.always
            if user_value or always:
                return False
    return True


def _params(tree: Any, listed: Listed | None) -> Iterator[int]:
    yield from (found.number for found in walk(tree) if kind(found) == "ParamRef")
    if listed is not None:
        yield listed.highest_param


def _call_nodes(nodes: Sequence[Any]) -> Iterator[Any]:
    """The Nodes that hold calls of nextval() of a known sequence, outside of subqueries."""
    left = list(nodes)
    while left:
        found = left.pop(0)
        message = inner(found)
        if message is None or kind(message) in _BELOW:
            continue
        if kind(found) == "Node" and kind(message) == "FuncCall" and is_nextval(message):
            yield found
            continue
        left[:0] = [part for _, part in parts(message)]


def is_nextval(call: Any) -> bool:
    """Whether a FuncCall is one of PostgreSQL's nextval()."""
    names = strings(call.funcname)
    return names[-1] == "nextval" and names[:-1] in ([], ["pg_catalog"])


def _named(call: Any) -> str | None:
    """The name of the sequence as it stands in the call; None where only a server knows."""
    if len(call.args) != 1:
        return None
    argument = inner(call.args[0])
    while kind(argument) == "TypeCast":
        argument = inner(argument.arg)
    is_text = kind(argument) == "A_Const" and argument.WhichOneof("val") == "sval"
    return argument.sval.sval if is_text else None
