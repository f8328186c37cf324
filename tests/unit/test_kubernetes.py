"""The example for Kubernetes hangs together: names, ports, secrets, the topology, and the calls of the command line.

That Kubernetes takes it is looked at by `make kubernetes-check`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from shardpool import __version__, parse_topology
from shardpool.cli import shardpool
from shardpool.schema import parse

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
RESOURCES: list[dict[str, Any]] = [
    resource for file in sorted(FOLDER.glob("*.yaml")) for resource in yaml.safe_load_all(file.read_text())
]


def named(kind: str, name: str) -> dict[str, Any]:
    """The one resource of this kind and name."""
    (found,) = [r for r in RESOURCES if r["kind"] == kind and r["metadata"]["name"] == name]
    return found


PODS = [
    pytest.param(resource["spec"]["template"]["spec"], id=resource["metadata"]["name"])
    for resource in RESOURCES
    if "template" in resource.get("spec", {})
]


def environment(container: dict[str, Any]) -> set[str]:
    return {variable["name"] for variable in container["env"]}


@pytest.mark.parametrize("pod", PODS)
def test_what_a_pod_mounts_and_is_told_is_there(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    for volume in pod["volumes"]:
        assert named("ConfigMap", volume["configMap"]["name"])["data"]
    for variable in container["env"]:
        if "valueFrom" in variable:
            wanted = variable["valueFrom"]["secretKeyRef"]
            assert wanted["key"] in named("Secret", wanted["name"])["stringData"]


@pytest.mark.parametrize("pod", PODS)
def test_the_topology_is_one_and_its_variables_are_set(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    text = named("ConfigMap", "shardpool-topology")["data"]["topology.yaml"]
    topology = parse_topology(text, env=dict.fromkeys(environment(container), "x"))
    # Kubernetes' network is not this machine: nothing is sent to a server that is not proven to be the right one.
    assert {endpoint.param("sslmode") for shard in topology.shards.values() for endpoint in shard.endpoints} == {
        "verify-full"
    }


@pytest.mark.parametrize("pod", PODS)
def test_the_image_is_this_version_and_its_arguments_are_known(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert container["image"] == f"shardpool:{__version__}"
    command: click.Command = shardpool
    context = click.Context(command)
    *names, option = container["args"]
    for name in names:
        assert isinstance(command, click.Group)
        found = command.get_command(context, name)
        assert found is not None
        command = found
    assert option.split("=")[0] in {text for parameter in command.params for text in parameter.opts}


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_may_do_no_more_than_it_has_to(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_monitor_finds_the_service_and_the_service_the_pods() -> None:
    deployment, service = named("Deployment", "shardpool"), named("Service", "shardpool")
    monitor = named("ServiceMonitor", "shardpool")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    assert monitor["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (port,), (served,), (scraped,) = container["ports"], service["spec"]["ports"], monitor["spec"]["endpoints"]
    assert served["targetPort"] == port["name"]
    assert scraped["port"] == served["name"]
    assert container["args"][-1] == f"--listen=0.0.0.0:{port['containerPort']}"
    wanted = scraped["authorization"]["credentials"]
    assert wanted["key"] in named("Secret", wanted["name"])["stringData"]
    assert "SHARDPOOL_TOKEN" in environment(container)


def test_the_migrations_are_some() -> None:
    for name, text in named("ConfigMap", "shardpool-migrations")["data"].items():
        assert parse(name, text).up
