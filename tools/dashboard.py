"""Writes `deploy/grafana/shardpool.json`, the dashboard; with `--check` only compares it.

A panel is a title, a unit, and its queries with what each series is called.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from generated import main

TARGET = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "shardpool.json"
OF = '{fleet=~"$fleet", shard=~"$shard"}'
SHARD = "{{shard}}/{{endpoint}}"


def _rate(metric: str, by: str, matchers: str = OF) -> str:
    return f"sum by ({by}) (rate({metric}{matchers}[$__rate_interval]))"


def _quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share}, {_rate(f'{metric}_bucket', 'fleet, shard, endpoint, le')})"


PANELS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Endpoints that are up", "short", {f"min by (fleet, shard, endpoint) (shardpool_endpoint_up{OF})": SHARD}),
    ("Calls per second", "ops", {_rate("shardpool_calls_total", "shard, endpoint"): SHARD}),
    (
        "Errors per second",
        "ops",
        {_rate("shardpool_errors_total", "shard, error"): "{{shard}} {{error}}"},
    ),
    ("Use of a connection, p50", "s", {_quantile(0.5, "shardpool_use_seconds"): SHARD}),
    ("Use of a connection, p99", "s", {_quantile(0.99, "shardpool_use_seconds"): SHARD}),
    ("Wait for a connection, p99", "s", {_quantile(0.99, "shardpool_wait_seconds"): SHARD}),
    (
        "Connections in use, and the most there may be",
        "short",
        {
            f"sum by (shard, endpoint) (shardpool_in_flight{OF})": f"{SHARD} in use",
            f"sum by (shard, endpoint) (shardpool_connections_max{OF})": f"{SHARD} max",
        },
    ),
    (
        "Connections by state",
        "short",
        {f"sum by (shard, endpoint, state) (shardpool_connections{OF})": f"{SHARD} {{{{state}}}}"},
    ),
    (
        "Callers that wait, and those that gave up per second",
        "short",
        {
            f"sum by (shard, endpoint) (shardpool_waiting{OF})": f"{SHARD} waiting",
            _rate("shardpool_wait_timeouts_total", "shard, endpoint"): f"{SHARD} gave up",
        },
    ),
    ("Lag of replicas", "s", {f"max by (shard, endpoint) (shardpool_replica_lag_seconds{OF})": SHARD}),
    (
        "Breakers, refusals, retries and cut calls per second",
        "ops",
        {_rate("shardpool_events_total", "shard, endpoint, event"): f"{SHARD} {{{{event}}}}"},
    ),
    ("Time to connect, p99", "s", {_quantile(0.99, "shardpool_connect_seconds"): SHARD}),
    (
        "Statements without a key per second, by how they were run",
        "ops",
        {_rate("shardpool_statements_total", "strategy", '{fleet=~"$fleet"}'): "{{strategy}}"},
    ),
    (
        "Epoch of the topology, and the newest seen",
        "none",
        {
            'min by (fleet) (shardpool_epoch{fleet=~"$fleet"})': "{{fleet}} in force, oldest",
            'max by (fleet) (shardpool_newest_epoch_seen{fleet=~"$fleet"})': "{{fleet}} seen",
        },
    ),
    (
        "Changes of the primary",
        "short",
        {f"sum by (shard) (increase(shardpool_primary_changes_total{OF}[$__rate_interval]))": "{{shard}}"},
    ),
)


def dashboard() -> dict[str, Any]:
    """The whole dashboard, three panels to a row."""
    return {
        "title": "shardpool",
        "uid": "shardpool",
        "schemaVersion": 39,
        "tags": ["postgresql", "shardpool"],
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [_datasource(), *(_variable(name) for name in ("fleet", "shard"))]},
        "panels": [_panel(number, *panel) for number, panel in enumerate(PANELS)],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _variable(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": f"label_values(shardpool_endpoint_up, {name})",
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


def _panel(number: int, title: str, unit: str, legend_by_query: dict[str, str]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"x": number % 3 * 8, "y": number // 3 * 8, "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": query, "legendFormat": legend}
            for place, (query, legend) in enumerate(legend_by_query.items())
        ],
    }


if __name__ == "__main__":
    sys.exit(main(TARGET, json.dumps(dashboard(), indent=2) + "\n"))
