"""Shards of the file → `Shard` values with their endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from ..topology import Endpoint, Pooler, PoolSettings, Shard
from . import _models as models
from ._connect import ConnectChecks, connection
from ._nodes import Node
from ._problems import Problems
from ._urls import replace_url

_ENDPOINT_FIELDS = ("pool", "pooler")
_REPLICA_FIELDS = (*_ENDPOINT_FIELDS, "max_lag")


def replace_urls(root: Node, problems: Problems) -> None:
    """Write endpoints that are given as URLs as mappings."""
    shards = root.at("shards")
    for shard in shards.fields.values() if shards else ():
        primary, replicas = shard.at("primary"), shard.at("replicas")
        for node in [*([primary] if primary else []), *(replicas.items if replicas else [])]:
            replace_url(node, problems)


class ShardBuilder:
    """Makes shards of what the file says, its defaults, and the folder that relative paths start from."""

    def __init__(self, file: models.TopologyFile, root: Node, folder: Path | None, problems: Problems) -> None:
        self._file = file
        self._defaults = file.defaults or models.Defaults.model_validate({})
        self._root = root
        self._folder = folder
        self._problems = problems
        self._checks = ConnectChecks(problems, file.plain_passwords)

    def build(self) -> dict[str, Shard]:
        """All shards that can be made, in file order; what is wrong goes to the problems."""
        self._checks.check(self._root.at("defaults", "connect"))
        if not self._file.shards and (node := self._root.at("shards")) and not node.damaged:
            self._problems.add_at_key(node, "no shard", "A fleet has at least one: s0: {primary: {host: …}}.")
        made = {name: self._shard(name, shard) for name, shard in self._file.shards.items()}
        shards = {name: shard for name, shard in made.items() if shard is not None}
        self._check_databases(shards)
        return shards

    def _shard(self, name: str, shard: models.Shard) -> Shard | None:
        node = self._node("shards", name)
        self._checks.check(node.at("connect"))
        if shard.hosts is not None:
            return self._shard_of_hosts(name, shard, node)
        if shard.primary is None:
            if not {"primary", "hosts"} & set(node.lost):
                self._problems.add_at_key(
                    node, "needs primary", "Write primary: {host: …}, or hosts: for several nodes."
                )
            return None
        primary_node, replicas_node = self._node("shards", name, "primary"), node.at("replicas")
        self._checks.check(primary_node, _ENDPOINT_FIELDS)
        primary = self._endpoint("primary", shard, shard.primary, node, primary_node)
        replicas = [
            self._replica(f"replica-{number}", shard, fields, node, replica_node)
            for number, (fields, replica_node) in enumerate(
                zip(shard.replicas, replicas_node.items if replicas_node else [], strict=True), 1
            )
        ]
        return Shard(name, primary, tuple(replicas))

    def _replica(self, name: str, shard: models.Shard, fields: models.ReplicaFields, node: Node, own: Node) -> Endpoint:
        self._checks.check(own, _REPLICA_FIELDS)
        return self._endpoint(name, shard, fields, node, own)

    def _shard_of_hosts(self, name: str, shard: models.Shard, node: Node) -> Shard | None:
        hosts_node = self._node("shards", name, "hosts")
        for other in ("primary", "replicas"):
            if (given := node.at(other)) is not None:
                hint = "Who is primary is found by asking the hosts: keep only one of the two."
                self._problems.add_at_key(given, f"{other} beside hosts", hint)
        for host in hosts_node.items:
            self._checks.check(host)
        if not hosts_node.items:
            if not hosts_node.damaged:
                self._problems.add_at_key(hosts_node, "no host", "Name at least one: hosts: [{host: …}].")
            return None
        self._check_attrs(node)
        where = self._joined(hosts_node, node)
        primary = self._endpoint("primary", shard, None, node, None, target_session_attrs="primary", **where)
        if len(hosts_node.items) == 1:
            return Shard(name, primary)
        return Shard(
            name,
            primary,
            (self._endpoint("replica", shard, None, node, None, target_session_attrs="standby", **where),),
        )

    def _check_attrs(self, node: Node) -> None:
        for level in (self._root.at("defaults", "connect"), node.at("connect")):
            if level is not None and (given := level.at("target_session_attrs")) is not None:
                self._problems.add_at_key(given, "cannot be set for hosts", "It is how the primary is found.")

    def _joined(self, hosts: Node, node: Node) -> dict[str, str]:
        """Hosts and ports as libpq wants them: one list each, of the same length."""
        levels = [self._root.at("defaults", "connect", "port"), node.at("connect", "port")]
        port = next((level.text for level in reversed(levels) if level is not None), "5432")
        pairs = [(_text(host.at("host")), _text(host.at("port")) or port) for host in hosts.items]
        return {"host": ",".join(host for host, _ in pairs), "port": ",".join(port for _, port in pairs)}

    def _endpoint(
        self,
        name: str,
        shard: models.Shard,
        fields: models.EndpointFields | None,
        node: Node,
        own: Node | None,
        **fixed: str,
    ) -> Endpoint:
        levels = (self._root.at("defaults", "connect"), node.at("connect"), own)
        found = connection(levels, self._folder, **fixed)
        is_primary = name == "primary"
        lag = fields.max_lag if isinstance(fields, models.ReplicaFields) else None
        return Endpoint(
            name=name,
            role="primary" if is_primary else "replica",
            params=found.params,
            password=found.password,
            password_file=found.password_file,
            max_lag=None if is_primary else _first(lag, shard.max_lag, self._defaults.max_lag),
            pooler=_pooler(_first(fields.pooler if fields else None, shard.pooler, self._defaults.pooler, "none")),
            pool=self._pool(own or node, self._defaults.pool, shard.pool, fields.pool if fields else None),
        )

    def _pool(self, node: Node, *levels: models.Pool | None) -> PoolSettings:
        given: dict[str, Any] = {}
        for level in filter(None, levels):
            given |= level.model_dump(exclude_none=True)
        settings = PoolSettings(**given)
        if settings.min_size > settings.max_size:
            place = node.at("pool") or self._root.at("defaults", "pool") or node
            message = f"min_size {settings.min_size} is more than max_size {settings.max_size}"
            self._problems.add_at_key(
                place, message, "An endpoint's pool has the settings of defaults, shard and endpoint."
            )
        return settings

    def _check_databases(self, shards: Mapping[str, Shard]) -> None:
        """Two shards on one database would count and write each other's rows."""
        owner_by_database: dict[tuple[str, str, str], str] = {}
        for shard in shards.values():
            for database in {place for endpoint in shard.endpoints for place in _databases(endpoint)}:
                other = owner_by_database.setdefault(database, shard.name)
                if other != shard.name:
                    message = f"shard {shard.name} is on the same database as shard {other}"
                    hint = "Every shard has a database of its own: change host, port or dbname."
                    self._problems.add_at_key(self._node("shards", shard.name), message, hint)

    def _node(self, *keys: str) -> Node:
        node = self._root.at(*keys)
        assert node is not None, keys
        return node


def _databases(endpoint: Endpoint) -> list[tuple[str, str, str]]:
    """Host, port and database of each of an endpoint's hosts."""
    hosts = (endpoint.param("hostaddr") or endpoint.param("host") or endpoint.param("service")).lower().split(",")
    ports = endpoint.param("port", "5432").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    dbname = endpoint.param("dbname") or endpoint.param("user")  # libpq's default
    same = {"127.0.0.1": "localhost", "::1": "localhost"}
    return [(same.get(host, host.removesuffix(".")), port, dbname) for host, port in zip(hosts, ports, strict=True)]


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _text(node: Node | None) -> str:
    return "" if node is None else node.text


def _pooler(value: str) -> Pooler:
    return next(pooler for pooler in get_args(Pooler) if pooler == value)
