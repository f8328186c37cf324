"""Shards of the file → `Shard` values with their endpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from ..topology import Endpoint, PoolSettings, Shard
from . import _models as models
from ._connect import ConnectChecks, connection
from ._nodes import YamlNode
from ._problems import Problems
from ._server_budget import fewest, shared
from ._urls import replace_url

T = TypeVar("T")

_WHERE = {"host", "hostaddr", "port", "dbname", "service"}
_ENDPOINT_FIELDS = ("pool", "pooler")
_REPLICA_FIELDS = (*_ENDPOINT_FIELDS, "max_lag")


def replace_urls(root: YamlNode, problems: Problems) -> None:
    """Write endpoints that are given as URLs as mappings."""
    shards = root.at("shards")
    for shard in shards.fields.values() if shards else ():
        primary, replicas = shard.at("primary"), shard.at("replicas")
        for node in [*([primary] if primary else []), *(replicas.items if replicas else [])]:
            replace_url(node, problems)


@dataclass(frozen=True, slots=True)
class _Level:
    """One place that says something about an endpoint: the defaults, its shard, or the endpoint itself."""

    node: YamlNode | None
    fields: models.Defaults | models.ShardFields | models.EndpointFields
    connect: YamlNode | None

    @property
    def pool(self) -> models.Pool | None:
        return self.fields.pool

    @property
    def pool_node(self) -> YamlNode | None:
        return None if self.node is None else self.node.at("pool")


class ShardBuilder:
    """Makes shards of what the file says; relative paths start from `folder`."""

    def __init__(self, file: models.TopologyFile, root: YamlNode, folder: Path | None, problems: Problems) -> None:
        self._file = file
        self._root = root
        self._folder = folder
        self._problems = problems
        self._checks = ConnectChecks(problems, file.plain_passwords)
        defaults = file.defaults or models.Defaults.model_validate({})
        self._defaults = _Level(root.at("defaults"), defaults, root.at("defaults", "connect"))

    def build(self) -> dict[str, Shard]:
        """All shards that can be made, in file order; what is wrong goes to the problems."""
        self._checks.check(self._defaults.connect)
        node = self._root.at("shards")
        if not self._file.shards and node is not None and not node.damaged:
            self._problems.add_at_key(node, "no shard", "A fleet has at least one: s0: {primary: {host: …}}.")
        made = [self._shard(name, fields) for name, fields in self._file.shards.items()]
        shards = {shard.name: shard for shard in made if shard is not None}
        self._check_databases(shards)
        return self._within_budget(shards)

    def _within_budget(self, shards: dict[str, Shard]) -> dict[str, Shard]:
        connections = self._file.defaults.server_connections if self._file.defaults is not None else None
        if connections is None:
            return shards
        needed = fewest(shards)
        if connections < needed:
            node = self._root.fields["defaults"].fields["server_connections"]
            hint = f"Each endpoint needs one at least: {needed}."
            self._problems.add_at_key(node, f"{connections} connections for {needed} endpoints on one server", hint)
            return shards
        return shared(shards, connections)

    def _shard(self, name: str, fields: models.ShardFields) -> Shard | None:
        node = self._root.fields["shards"].fields[name]
        self._checks.check(node.at("connect"))
        levels = (self._defaults, _Level(node, fields, node.at("connect")))
        if fields.hosts is not None:
            return self._shard_of_hosts(name, node, levels)
        if fields.primary is None:
            if not {"primary", "hosts"} & set(node.lost):
                hint = "Write primary: {host: …}, or hosts: for several nodes."
                self._problems.add_at_key(node, "needs primary", hint)
            return None
        primary = self._own_endpoint("primary", levels, fields.primary, node.fields["primary"])
        nodes = replicas.items if (replicas := node.at("replicas")) else []
        return Shard(
            name,
            primary,
            tuple(
                self._own_endpoint(f"replica-{number}", levels, replica, replica_node)
                for number, (replica, replica_node) in enumerate(zip(fields.replicas, nodes, strict=True), 1)
            ),
        )

    def _own_endpoint(
        self, name: str, levels: Sequence[_Level], fields: models.EndpointFields, node: YamlNode
    ) -> Endpoint:
        """An endpoint that stands in the file itself."""
        self._checks.check(node, _REPLICA_FIELDS if isinstance(fields, models.ReplicaFields) else _ENDPOINT_FIELDS)
        return self._endpoint(name, [*levels, _Level(node, fields, node)])

    def _shard_of_hosts(self, name: str, node: YamlNode, levels: Sequence[_Level]) -> Shard | None:
        hosts = node.fields["hosts"]
        self._check_beside_hosts(node, levels)
        for host in hosts.items:
            self._checks.check(host)
        if not hosts.items:
            if not hosts.damaged:
                self._problems.add_at_key(hosts, "no host", "Name at least one: hosts: [{host: …}].")
            return None
        places = [_place(host) for host in hosts.items]
        if len(places) == 1:
            return Shard(name, self._endpoint("primary", levels, target_session_attrs="primary", **places[0]))
        # All have the settings of the one that needs the strictest: the password goes to each of them.
        shared = self._endpoint("node", levels, host=",".join(place["host"] for place in places))
        nodes = [
            replace(shared, name=f"node-{number}", role="node", params=_params_at(shared, place))
            for number, place in enumerate(places, 1)
        ]
        return Shard(name, nodes[0], tuple(nodes[1:]))

    def _check_beside_hosts(self, node: YamlNode, levels: Sequence[_Level]) -> None:
        for field in ("primary", "replicas"):
            if (given := node.at(field)) is not None:
                hint = "Who is primary is found by asking the hosts: keep only one of the two."
                self._problems.add_at_key(given, f"{field} beside hosts", hint)
        for level in levels:
            if level.connect is not None and (given := level.connect.at("target_session_attrs")) is not None:
                self._problems.add_at_key(given, "cannot be set for hosts", "It is how the primary is found.")

    def _endpoint(self, name: str, levels: Sequence[_Level], **fixed: str) -> Endpoint:
        """The endpoint that the levels describe, later ones over earlier ones, and `fixed` libpq keywords over all."""
        settings = [level.connect for level in levels]
        parameters = connection(settings, self._folder, **fixed)
        self._checks.check_tls(settings, dict(parameters.params))
        is_primary = name == "primary"
        return Endpoint(
            name=name,
            role="primary" if is_primary else "replica",
            params=parameters.params,
            password=parameters.password,
            password_file=parameters.password_file,
            max_lag=None if is_primary else _last([getattr(level.fields, "max_lag", None) for level in levels]),
            pooler=_last([level.fields.pooler for level in levels]) or "none",
            pool=self._pool(levels),
        )

    def _pool(self, levels: Sequence[_Level]) -> PoolSettings:
        given: dict[str, Any] = {}
        for pool in filter(None, (level.pool for level in levels)):
            given |= pool.model_dump(exclude_none=True)
        settings = PoolSettings(**given)
        nodes = [level.pool_node for level in levels if level.pool_node is not None]
        if settings.min_size > settings.max_size and not any(node.damaged for node in nodes):
            message = f"min_size {settings.min_size} is more than max_size {settings.max_size}"
            hint = "An endpoint's pool has the settings of defaults, shard and endpoint, field by field."
            self._problems.add_at_key(nodes[-1], message, hint)
        return settings

    def _check_databases(self, shards: Mapping[str, Shard]) -> None:
        """Two shards on one database would count and write each other's rows."""
        shard_by_database: dict[tuple[str, str, str], str] = {}
        for shard in shards.values():
            if self._is_misplaced(self._root.fields["shards"].fields[shard.name]):
                continue
            for database in sorted({place for endpoint in shard.endpoints for place in _databases(endpoint)}):
                other = shard_by_database.setdefault(database, shard.name)
                if other != shard.name:
                    message = f"shard {shard.name} is on the same database as shard {other}"
                    hint = "Every shard has a database of its own: change host, port or dbname."
                    self._problems.add_at_key(self._root.fields["shards"].fields[shard.name], message, hint)

    def _is_misplaced(self, shard: YamlNode) -> bool:
        """Whether something that says where the shard is was refused, so that its databases are not known."""
        lists = [node.items for field in ("replicas", "hosts") if (node := shard.at(field)) is not None]
        nodes = [self._defaults.connect, shard.at("connect"), shard.at("primary"), *chain.from_iterable(lists)]
        return any(_WHERE & set(node.lost) for node in nodes if node is not None)


def _place(host: YamlNode) -> dict[str, str]:
    """Where one of a shard's hosts is; its port is that of the shard when it gives none."""
    port = _text(host.at("port"))
    return {"host": _text(host.at("host")), **({"port": port} if port else {})}


def _params_at(shared: Endpoint, place: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({**dict(shared.params), **place}.items()))


def _databases(endpoint: Endpoint) -> list[tuple[str, str, str]]:
    """Host, port and database of each of an endpoint's hosts."""
    hosts = (endpoint.param("hostaddr") or endpoint.param("host") or endpoint.param("service")).lower().split(",")
    ports = endpoint.param("port", "5432").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    dbname = endpoint.param("dbname") or endpoint.param("user")  # libpq's default
    same = {"127.0.0.1": "localhost", "::1": "localhost"}
    return [(same.get(host, host.removesuffix(".")), port, dbname) for host, port in zip(hosts, ports, strict=True)]


def _last(values: Sequence[T | None]) -> T | None:
    return next((value for value in reversed(values) if value is not None), None)


def _text(node: YamlNode | None) -> str:
    return "" if node is None else node.text
