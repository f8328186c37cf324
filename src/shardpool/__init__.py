"""Many PostgreSQL servers used as one sharded database from Python services, in process, without a proxy."""

from typing import TYPE_CHECKING

from ._exports import exports
from .version import __version__

if TYPE_CHECKING:
    from ._async.router import AsyncRouter
    from ._async.routes import AsyncRoute
    from ._async.sql.transaction import AsyncFleetTransaction
    from ._async.work.handle import AsyncShardHandle
    from ._sync.router import Router
    from ._sync.routes import Route
    from ._sync.sql.transaction import FleetTransaction
    from ._sync.work.handle import ShardHandle
    from .config import load_topology, parse_topology
    from .errors import (
        BatchError,
        CommitUnknown,
        ConfigError,
        DeadlineExceeded,
        DistributedDeadlock,
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
        TransactionForgotten,
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

__all__ = [
    "AsyncFleetTransaction",
    "AsyncRoute",
    "AsyncRouter",
    "AsyncShardHandle",
    "BatchError",
    "ByShard",
    "CommitUnknown",
    "ConfigError",
    "DeadlineExceeded",
    "DistributedDeadlock",
    "EditRefused",
    "Finding",
    "FleetTransaction",
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
    "TransactionForgotten",
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
        "._async.work.handle": "AsyncShardHandle",
        "._async.routes": "AsyncRoute",
        "._async.router": "AsyncRouter",
        "._async.sql.transaction": "AsyncFleetTransaction",
        "._sync.work.handle": "ShardHandle",
        "._sync.routes": "Route",
        "._sync.router": "Router",
        "._sync.sql.transaction": "FleetTransaction",
        ".config": "load_topology parse_topology",
        ".errors": (
            "BatchError CommitUnknown ConfigError DeadlineExceeded DistributedDeadlock EditRefused InitRefused "
            "InvalidKey ItemFailure ItemRolledBack KeyNotCovered LoadError MissingKey OtherMap Problem ResultTooLarge "
            "RouterMisuse RoutingError ScatterError ShardBusy ShardError ShardpoolError ShardUnavailable StaleTopology "
            "TransactionForgotten UnknownKeyspace UnknownShard UnknownTable UnsupportedQuery"
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
