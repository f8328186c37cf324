"""A router's metrics as Prometheus gets them, on a real fleet; and that dashboard and alerts ask for what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from shardpool import Router

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shardpool.prometheus import ShardpoolCollector

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "stats.md"
DASHBOARD = ROOT / "deploy" / "grafana" / "shardpool.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
_NAME = re.compile(r"\bshardpool_[a-z_]+\b")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(router: Router) -> tuple[dict[str, str], Samples]:
    """The kinds of the families by name, and the values by name and labels, of the text that a scrape gets."""
    registry = CollectorRegistry()
    registry.register(ShardpoolCollector(router))
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    return {family.name: family.type for family in families}, samples


def value(samples: Samples, name: str, **labels: str) -> float:
    found = [
        number for (known, given), number in samples.items() if known == name and labels.items() <= dict(given).items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def test_a_scrape_tells_what_the_router_did(router: Router) -> None:
    router.for_key(17, table="orders").execute("select pg_sleep(0.02)")
    router.shard("s0").execute("insert into countries values ('de', 'Germany')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        router.shard("s0").execute("insert into countries values ('de', 'Germany')")
    router.execute("select count(*) from orders")
    kinds, samples = scraped(router)
    fleet = router.topology.fleet
    where = {"fleet": fleet, "shard": "s3", "role": "primary", "endpoint": "primary"}
    calls = router.stats()["shards"]["s3"]["primary"]["calls"]
    assert value(samples, "shardpool_calls_total", **where) == calls
    assert value(samples, "shardpool_use_seconds_count", **where) == calls
    assert value(samples, "shardpool_use_seconds_bucket", **where, le="+Inf") == calls
    assert value(samples, "shardpool_use_seconds_bucket", **where, le="0.01") < calls
    assert value(samples, "shardpool_use_seconds_sum", **where) >= 0.02
    assert value(samples, "shardpool_errors_total", shard="s0", error="UniqueViolation") == 1
    assert value(samples, "shardpool_connections", **where, state="idle") == 1
    assert value(samples, "shardpool_connections_max", **where) == 10
    assert value(samples, "shardpool_statements_total", fleet=fleet, strategy="add") == 1
    assert value(samples, "shardpool_transactions_total", fleet=fleet, end="several_shards") == 0
    assert value(samples, "shardpool_transactions_unfinished", fleet=fleet) == 0
    assert value(samples, "shardpool_epoch", fleet=fleet) == 5
    assert value(samples, "shardpool_endpoint_up", **where) == 1
    assert value(samples, "shardpool_breaker_state", **where, state="closed") == 1
    assert kinds["shardpool_use_seconds"] == "histogram"


def test_no_label_is_a_key_a_bucket_or_an_address(router: Router) -> None:
    router.for_key(17, table="orders").execute("select 1")
    _, samples = scraped(router)
    known = {"fleet", "shard", "role", "endpoint", "state", "error", "event", "strategy", "end", "le"}
    assert {label for _, labels in samples for label, _ in labels} <= known


def test_an_endpoint_that_cannot_be_connected_to_is_down(topology_path: str) -> None:
    path = Path(topology_path)
    text = re.sub(r"(s2:\n    primary: .*?port: ')\d+", r"\g<1>1", path.read_text())
    path.write_text(text)
    with Router(topology_path) as router:
        with pytest.raises(psycopg.OperationalError):
            router.shard("s2").execute("select 1")
        _, samples = scraped(router)
    assert value(samples, "shardpool_endpoint_up", shard="s2") == 0
    assert value(samples, "shardpool_endpoint_up", shard="s1") == 1
    assert value(samples, "shardpool_connect_failures_total", shard="s2") >= 1
    assert value(samples, "shardpool_errors_total", shard="s2", error="ShardUnavailable") == 1


def test_two_routers_in_one_registry_are_told_apart(topology_path: str, shardpool_topology: Path) -> None:
    with Router(topology_path) as one, Router(shardpool_topology) as other:
        registry = CollectorRegistry()
        registry.register(ShardpoolCollector(one, other))
        text = generate_latest(registry).decode()
    families = [family for family in text_string_to_metric_families(text) if family.name == "shardpool_epoch"]
    assert len(families) == 1
    assert {s.labels["fleet"] for s in families[0].samples} == {one.topology.fleet, other.topology.fleet}


def families(router: Router) -> set[str]:
    """The names of all series of a scrape, and of the families that have none here."""
    kinds, samples = scraped(router)
    counters = {f"{name}_total" for name, kind in kinds.items() if kind == "counter"}
    return {name for name, kind in kinds.items() if kind != "counter"} | counters | {name for name, _ in samples}


def test_every_metric_is_in_the_reference_and_the_reference_has_no_other(router: Router) -> None:
    router.scatter("select 1")
    kinds, _ = scraped(router)
    told = {f"{name}_total" if kind == "counter" else name for name, kind in kinds.items()}
    described = set(re.findall(r"^\| `(shardpool_[a-z_]+)` \|", PAGE.read_text(encoding="utf-8"), re.M))
    assert described == told


def expressions(value: Any) -> Iterator[str]:
    """All `expr` of a JSON or YAML document, and queries of dashboard variables."""
    if isinstance(value, dict):
        for name, below in value.items():
            if name in ("expr", "query", "definition") and isinstance(below, str):
                yield below
            else:
                yield from expressions(below)
    elif isinstance(value, list):
        for below in value:
            yield from expressions(below)


@pytest.mark.parametrize("file", [DASHBOARD, ALERTS], ids=lambda file: file.name)
def test_dashboard_and_alerts_name_metrics_that_there_are(file: Path, router: Router) -> None:
    router.scatter("select 1")
    text = file.read_text(encoding="utf-8")
    document = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    named = {name for expression in expressions(document) for name in _NAME.findall(expression)}
    assert len(named) >= 8
    assert named <= families(router)


def test_labels_in_expressions_are_those_of_the_metrics(router: Router) -> None:
    router.scatter("select 1")
    _, samples = scraped(router)
    known = {label for _, labels in samples for label, _ in labels} | {"error", "job", "instance"}
    documents = [json.loads(DASHBOARD.read_text()), yaml.safe_load(ALERTS.read_text())]
    for expression in (found for document in documents for found in expressions(document)):
        assert expression.count("(") == expression.count(")") and expression.count("{") == expression.count("}")
        for labels in re.findall(r"\b(?:by|without|on|ignoring|group_left)\s*\(([^)]*)\)", expression):
            assert {label.strip() for label in labels.split(",") if label.strip()} <= known, expression
        for matcher in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression):
            assert matcher in known, expression


def test_alert_rules_are_well_formed() -> None:
    document = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    assert set(document) == {"groups"}
    names = []
    for group in document["groups"]:
        assert set(group) <= {"name", "interval", "rules"}
        for rule in group["rules"]:
            assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
            assert re.fullmatch(r"\d+[smh]", rule["for"])
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert {"summary", "description"} == set(rule["annotations"])
            names.append(rule["alert"])
    assert len(names) == len(set(names)) >= 6


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
