"""Statement, topology and catalog → plan. Pure; a plan is made once for each text, without its parameters' values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...errors import UnsupportedQuery
from ...topology import Reference, Single, Topology
from ..analysis.alike import touched
from ..analysis.analysis import Analysis
from ..analysis.catalog import Catalog
from ..analysis.listed import listed
from ..analysis.placing import unseen
from ..analysis.purity import first_volatile, refuse_server_local, refuse_system_columns
from ..text.remembered import LONG
from ..text.statement import kind, parse, verb
from ..text.template import asks_for_time, at_one_time
from .combine import combine
from .effects import refuse_effects
from .exclusion import exclude
from .gathered import gathered
from .inner_order import Unfit, carried
from .kept import keeps
from .looked import Looked, looked
from .numbered import draws, numbered, refuse_numbers_of_shards, without_draws
from .plan import Gathered, Plan, Scattered, Transferred, Use, loose_params, uses_of
from .pull import pull
from .setting import setting
from .writes import plan_write, writing_with

_WRITES = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt")


def plan(sql: str, topology: Topology, catalog: Catalog, new: frozenset[str] = frozenset()) -> Plan:
    """The plan of one statement with `$n` placeholders; see `completed` for the rest of it.

    Raises `UnsupportedQuery`, `UnknownTable`, and the `psycopg.Error` of what the grammar refuses. That it cannot run
    on several shards is no error here but the plan's `refusal`, since with its parameters it may turn out to concern
    one only. The columns `new` get numbers that no row has.
    """
    rows = listed(sql) if len(sql) >= LONG else None
    trees = parse(sql if rows is None else rows.sample)
    if len(trees) != 1:
        raise UnsupportedQuery(
            f"{len(trees)} statements where one was expected",
            hint="Call execute() once for each, or run them on a connection of one shard.",
        )
    tree = trees[0]
    numbers = numbered(tree, topology, catalog, rows)
    if numbers is not None:
        return Plan(sql, verb(tree), (), True, numbers=numbers)
    set_ = setting(tree)
    if set_ is not None:
        return Plan(sql, "SELECT", (), True, setting=set_)
    refuse_numbers_of_shards(tree, topology, catalog)
    if kind(tree) in _WRITES:
        made = replace(plan_write(sql, tree, topology, catalog, rows, new), touched=touched(tree, catalog))
        return replace(exclude(made, topology, catalog), looked=_looked(tree, made, topology, catalog))
    if kind(tree) != "SelectStmt" or tree.HasField("into_clause"):
        name = "SELECT INTO" if kind(tree) == "SelectStmt" else verb(tree)
        raise UnsupportedQuery(
            f"{name} is not routed by its tables",
            hint="Run it on every shard with scatter(), or on one with shard(name).execute().",
        )
    return _plan_select(sql, tree, topology, catalog)


def completed(sql: str, topology: Topology, catalog: Catalog, *, strategy: str | None = None) -> Plan:
    """The plan of a SELECT with what is done when it concerns several shards, or why nothing is.

    `strategy="pull"` takes the slow, surely right way, `"combine"` one in which a server puts the rows together.
    """
    tree, analysis = _analysed(sql, topology, catalog)
    scattered: Scattered | None = None
    refusal: UnsupportedQuery | None = None
    reasons: tuple[str, ...] = ()
    try:
        refuse_server_local(tree, catalog)
        scattered, reasons = _scattered(sql, tree, analysis, topology, catalog, strategy)
    except UnsupportedQuery as error:
        refusal = error
    made = Plan(
        sql,
        "SELECT",
        uses_of(analysis.nodes),
        bool(analysis.writes),
        scattered,
        refusal,
        _root(analysis, scattered),
        reasons,
        loose=loose_params(tree, analysis.key_columns),
        key_assignments=tuple(analysis.key_assignments),
        touched=touched(tree, catalog),
    )
    return exclude(made, topology, catalog)


def _plan_select(sql: str, tree: Any, topology: Topology, catalog: Catalog) -> Plan:
    analysis = Analysis(topology, catalog)
    analysis.statement(tree)
    refuse_system_columns(tree)
    uses = uses_of(analysis.nodes)
    if not uses:
        # Any shard answers, so that what only one server can say is refused at once, but for numbers of a sequence.
        refuse_server_local(without_draws(tree), catalog)
        if draws(tree):
            uses = (Use("nextval()", shard=topology.numbering_shard),)
            return Plan(sql, "SELECT", uses, writes=True)
        if analysis.locks and analysis.references:
            raise _locked_references(analysis)
    if any(isinstance(node.placement, Reference) for node in analysis.writes):
        raise writing_with(analysis)
    if analysis.doubts:
        raise unseen(tree, analysis.writes[0], analysis.doubts)
    refuse_effects(tree, analysis)
    loose = loose_params(tree, analysis.key_columns)
    key_assignments = tuple(analysis.key_assignments)
    if uses:
        _latest.clear()
        _latest[sql] = topology, catalog, tree, analysis
    made = Plan(
        sql,
        "SELECT",
        uses,
        bool(analysis.writes),
        is_complete=not uses,
        loose=loose,
        key_assignments=key_assignments,
        keeps=keeps(tree, analysis),
    )
    return replace(made, looked=_looked(tree, made, topology, catalog)) if topology.lookups else made


def _looked(tree: Any, made: Plan, topology: Topology, catalog: Catalog) -> Looked | None:
    """How a value leads to the rows of a statement whose keys are not known."""
    if not topology.lookups:
        return None
    return looked(tree, topology, catalog, {use.table for use in made.uses if any(use.pins)})


# What is known of the statement that was planned last: mostly it is completed next.
_latest: dict[str, tuple[Topology, Catalog, Any, Analysis]] = {}


def _analysed(sql: str, topology: Topology, catalog: Catalog) -> tuple[Any, Analysis]:
    """The tree of a SELECT, at one time, and its analysis; what was made for a plan is given once."""
    made = _latest.pop(sql, None)
    if made is not None and made[0] is topology and made[1] is catalog and not asks_for_time(made[2]):
        return made[2:]
    tree = at_one_time(parse(sql)[0])
    analysis = Analysis(topology, catalog)
    analysis.statement(tree)
    return tree, analysis


def _scattered(
    sql: str, tree: Any, analysis: Analysis, topology: Topology, catalog: Catalog, strategy: str | None
) -> tuple[Scattered, tuple[str, ...]]:
    """What is done when several shards hold the rows, and why nothing faster."""
    if analysis.writes:
        raise UnsupportedQuery(
            "a WITH clause that writes runs on one shard only", hint="Filter each of its parts on the partition key."
        )
    if analysis.locks:
        raise UnsupportedQuery(
            "rows of several shards cannot be locked by one SELECT",
            hint="Filter on the partition key, or lock them shard by shard on connections of your own.",
        )
    if analysis.disguised:
        row, function = analysis.disguised.split(".", 1)
        raise UnsupportedQuery(
            f"{analysis.disguised} is no column but a call of {function}()",
            hint=f"Write it as one: {function}({row}).",
        )
    reasons: list[str] = []
    if strategy != "pull":
        found = _in_parts(sql, tree, analysis, topology, catalog, strategy, reasons)
        if found is not None:
            return found, tuple(reasons)
    return pull(sql, topology, catalog), tuple(dict.fromkeys(reasons))


def _in_parts(
    sql: str,
    tree: Any,
    analysis: Analysis,
    topology: Topology,
    catalog: Catalog,
    strategy: str | None,
    reasons: list[str],
) -> Gathered | Transferred | None:
    """What is done when the shards make the rows each for itself; None when they cannot, with the `reasons`."""
    why_not = _why_not_local(tree, analysis, catalog)
    if why_not is not None:
        reasons.append(why_not)
        return None
    try:
        outside, lost = carried(tree, topology, catalog)
    except Unfit as reason:
        reasons.append(str(reason))
        return None
    if outside is not tree:
        analysis = Analysis(topology, catalog)
        analysis.statement(outside)
    found: Gathered | Transferred | str = _why_not_here(outside, catalog, strategy) or gathered(
        sql, outside, analysis.top, catalog
    )
    if isinstance(found, str):
        reasons.append(found)
        found = combine(outside, analysis, len(analysis.tables))
    if isinstance(found, str):
        reasons.append(found)
        return None
    return found if lost is None else replace(found, lost_order=lost.by)


def _root(analysis: Analysis, scattered: Scattered | None) -> int | None:
    """The use on whose shards all rows are, when the shards make them for themselves."""
    root = analysis.top.root
    if scattered is None or scattered.name == "pull" or root is None or not root.table:
        return None
    return analysis.tables.index(root)


def _why_not_local(tree: Any, analysis: Analysis, catalog: Catalog) -> str | None:
    """Why the shards cannot make the rows of the statement each for itself; None when they can."""
    if analysis.top.root is None:
        return "it brings rows together that are on different shards"
    if any(isinstance(node.placement, Single) for node in analysis.tables):
        return "a single table is on one shard only"
    if analysis.unclear_aggregates:
        return "an aggregate may belong to this statement or to a subquery of it"
    volatile = first_volatile(tree, catalog, timeless=False)
    return None if volatile is None else f"{volatile} may differ from shard to shard"


def _why_not_here(tree: Any, catalog: Catalog, strategy: str | None) -> str | None:
    """Why a server has to put the rows together, whatever they are; None when they may be put together here."""
    if strategy == "combine":
        return "the values are of a form that only a server puts together"
    time = first_volatile(tree, catalog)
    return None if time is None else f"{time} has to be told to all shards"


def _locked_references(analysis: Analysis) -> UnsupportedQuery:
    table = analysis.references[0].table.removeprefix("public.")
    return UnsupportedQuery(
        f"SELECT … FOR UPDATE of the reference table {table} has to reach its copy on every shard",
        hint="Run it with scatter(): one transaction per shard, not one over all of them.",
    )
