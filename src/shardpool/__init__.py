"""Many PostgreSQL servers used as one sharded database from Python services, in process, without a proxy."""

from typing import TYPE_CHECKING

from ._exports import exports

if TYPE_CHECKING:
    from ._async.route import AsyncRoute, AsyncShardHandle
    from ._async.router import AsyncRouter
    from ._sync.route import Route, ShardHandle
    from ._sync.router import Router
    from .config import load_topology, parse_topology
    from .errors import (
        BatchError,
        CommitUnknown,
        ConfigError,
        DeadlineExceeded,
        EditRefused,
        InitRefused,
        InvalidKey,
        ItemFailure,
        ItemRolledBack,
        KeyNotCovered,
        LoadError,
        MissingKey,
        OtherMap,
        Problem,
        ResultTooLarge,
        RouterMisuse,
        RoutingError,
        ScatterError,
        ShardBusy,
        ShardError,
        ShardpoolError,
        ShardUnavailable,
        StaleTopology,
        UnknownKeyspace,
        UnknownShard,
        UnknownTable,
        UnsupportedQuery,
    )
    from .partitioning import encode_key
    from .report import Finding, Report
    from .result import ByShard, Result
    from .tokens import Token
    from .topology import Topology

__version__ = "0.1.0"

__all__ = [
    "AsyncRoute",
    "AsyncRouter",
    "AsyncShardHandle",
    "BatchError",
    "ByShard",
    "CommitUnknown",
    "ConfigError",
    "DeadlineExceeded",
    "EditRefused",
    "Finding",
    "InitRefused",
    "InvalidKey",
    "ItemFailure",
    "ItemRolledBack",
    "KeyNotCovered",
    "LoadError",
    "MissingKey",
    "OtherMap",
    "Problem",
    "Report",
    "Result",
    "ResultTooLarge",
    "Route",
    "Router",
    "RouterMisuse",
    "RoutingError",
    "ScatterError",
    "ShardBusy",
    "ShardError",
    "ShardHandle",
    "ShardUnavailable",
    "ShardpoolError",
    "StaleTopology",
    "Token",
    "Topology",
    "UnknownKeyspace",
    "UnknownShard",
    "UnknownTable",
    "UnsupportedQuery",
    "__version__",
    "encode_key",
    "load_topology",
    "parse_topology",
]

# A public name is imported when it is first used: psycopg alone takes 0.2 s, which `shardpool --help` can do without.
__getattr__ = exports(
    __name__,
    {
        "._async.route": "AsyncRoute AsyncShardHandle",
        "._async.router": "AsyncRouter",
        "._sync.route": "Route ShardHandle",
        "._sync.router": "Router",
        ".config": "load_topology parse_topology",
        ".errors": (
            "BatchError CommitUnknown ConfigError DeadlineExceeded EditRefused InitRefused InvalidKey ItemFailure "
            "ItemRolledBack KeyNotCovered LoadError MissingKey OtherMap Problem ResultTooLarge "
            "RouterMisuse RoutingError ScatterError ShardBusy ShardError ShardpoolError ShardUnavailable StaleTopology "
            "UnknownKeyspace UnknownShard UnknownTable UnsupportedQuery"
        ),
        ".partitioning": "encode_key",
        ".report": "Finding Report",
        ".result": "ByShard Result",
        ".tokens": "Token",
        ".topology": "Topology",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
