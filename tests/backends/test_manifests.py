"""The Kubernetes manifests and the compose file are valid, and fit the programs they start."""

from __future__ import annotations

import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_lifecycle import TrackerConfig
from otel_lifecycle.config import environment_variables
from tests.backends.programs import CONFIGURATIONS, program

pytestmark = pytest.mark.backends

KUBERNETES = CONFIGURATIONS / "kubernetes"
MANIFESTS = ("router.yaml", "agent.yaml", "gateway.yaml")
COMPOSE = CONFIGURATIONS / "local/compose.yaml"


def load(path: Path) -> Any:
    """Load a file with one document."""
    return yaml.safe_load(path.read_text("utf-8"))


def manifests(name: str) -> list[dict[str, Any]]:
    """The objects of one file."""
    return list(yaml.safe_load_all((KUBERNETES / name).read_text("utf-8")))


def the(kind: str, name: str) -> dict[str, Any]:
    """Return the only object of a kind in a file."""
    (found,) = (manifest for manifest in manifests(name) if manifest["kind"] == kind)
    return found


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    """Return the pod template of a workload."""
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def environment(workload: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a workload's container; those from pod fields are empty."""
    (container,) = pod(workload)["containers"]
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


def ports(workload: dict[str, Any]) -> dict[str, int]:
    """Return the ports of a workload's container."""
    (container,) = pod(workload)["containers"]
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def asked(configuration: str) -> Iterator[tuple[str, str | None]]:
    """Return the variables of a collector's configuration, with their defaults."""
    text = (CONFIGURATIONS / configuration).read_text("utf-8")
    for name, default in re.findall(r"\$\{env:(\w+)(?::-([^}]*))?\}", text):
        yield name, default or None


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_takes_it(name: str) -> None:
    """Every object conforms to Kubernetes' schema, without unknown fields."""
    # Not installed for `make test` alone.
    kubernetes_validate = importlib.import_module("kubernetes_validate")
    version = kubernetes_validate.latest_version()
    for manifest in manifests(name):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_labels_select_their_pods(name: str) -> None:
    """Every selector selects the pods of the workload beside it."""
    (workload,) = (item for item in manifests(name) if "template" in item.get("spec", {}))
    labels = workload["spec"]["template"]["metadata"]["labels"]
    for manifest in manifests(name):
        selector = manifest.get("spec", {}).get("selector")
        if selector is not None:
            assert selector.get("matchLabels", selector) == labels


@pytest.mark.parametrize("name", MANIFESTS)
def test_volumes_are_mounted(name: str) -> None:
    """Every volume is mounted, and every mount has its volume."""
    (workload,) = (item for item in manifests(name) if "template" in item.get("spec", {}))
    spec = pod(workload)
    claims = workload["spec"].get("volumeClaimTemplates", [])
    there = {volume["name"] for volume in spec["volumes"]}
    there |= {claim["metadata"]["name"] for claim in claims}
    containers = [*spec["containers"], *spec.get("initContainers", [])]

    assert there == {mount["name"] for one in containers for mount in one["volumeMounts"]}


def test_router_settings() -> None:
    """The router's variables exist, with valid values."""
    variables = environment(the("Deployment", "router.yaml"))
    ours = {name: text for name, text in variables.items() if name.startswith("OTEL_LIFECYCLE_")}

    assert set(ours) <= set(environment_variables())
    assert TrackerConfig.from_environment(ours).persistence.enabled


def test_router_finds_its_agent() -> None:
    """The router exports to the agent's service, which leads to the agent on its node."""
    service = the("Service", "agent.yaml")
    endpoint = environment(the("Deployment", "router.yaml"))["OTEL_EXPORTER_OTLP_ENDPOINT"]
    (port,) = (port for port in service["spec"]["ports"] if port["name"] == "otlp-grpc")

    assert service["spec"]["internalTrafficPolicy"] == "Local"
    assert endpoint == f"http://{service['metadata']['name']}.observability:{port['port']}"
    assert load(KUBERNETES / "kustomization.yaml")["namespace"] == "observability"


def test_agent_finds_the_gateways() -> None:
    """Agents find gateways by the name that resolves to all their addresses."""
    service = the("Service", "gateway.yaml")
    gateway = the("StatefulSet", "gateway.yaml")
    name = environment(the("DaemonSet", "agent.yaml"))["GATEWAY_HOST"]

    assert service["spec"]["clusterIP"] == "None"
    assert name == service["metadata"]["name"] == gateway["spec"]["serviceName"]


@pytest.mark.parametrize(
    ("kind", "name", "configuration"),
    [
        ("DaemonSet", "agent.yaml", "agent/config.yaml"),
        ("StatefulSet", "gateway.yaml", "gateway/config.yaml"),
    ],
)
def test_collectors_get_what_they_ask_for(kind: str, name: str, configuration: str) -> None:
    """Each configuration has its variables, its queue and its ports."""
    workload = the(kind, name)
    settings = environment(workload)
    defaults = dict(asked(configuration))
    optional = {variable for variable in defaults if variable.endswith("_FILE")}
    given = {**{key: text for key, text in defaults.items() if text}, **settings}
    (container,) = pod(workload)["containers"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    addresses = [given[f"{key}_ENDPOINT"] for key in ("OTLP_GRPC", "OTLP_HTTP", "HEALTH")]
    addresses.append(f"{given['TELEMETRY_HOST']}:{given['TELEMETRY_PORT']}")

    assert set(defaults) - set(given) - optional == set()
    assert set(settings) - set(defaults) == {"GOMEMLIMIT"}
    assert addresses == [f"0.0.0.0:{port}" for port in ports(workload).values()]
    assert given["QUEUE_DIRECTORY"].startswith(tuple(mounts))
    assert container["args"] == ["--config=/etc/otelcol/config.yaml"]


def test_compose_takes_it() -> None:
    """The compose file conforms to the Compose Specification."""
    done = subprocess.run(
        [program("compose-spec"), "compose.yaml"],
        cwd=COMPOSE.parent,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert set(yaml.safe_load(done.stdout)["services"]) == set(load(COMPOSE)["services"])


def test_compose_mounts_what_there_is() -> None:
    """Mounted files exist, and commands use mounted paths."""
    services = load(COMPOSE)["services"]
    named = set(load(COMPOSE)["volumes"])
    for service in services.values():
        mounted = []
        for volume in service["volumes"]:
            source, target, *_ = volume.split(":")
            assert source in named or (COMPOSE.parent / source).exists()
            mounted.append(target)
        for option in service.get("command", []):
            path = option.partition("=")[2]
            if path.startswith("/"):
                assert path.startswith(tuple(mounted))


def test_compose_names_what_is_asked_for() -> None:
    """Services have the names used in configurations, with pinned images."""
    services = load(COMPOSE)["services"]
    defaults = dict(asked("local/collector.yaml"))
    sources = load(CONFIGURATIONS / "grafana/datasources/datasources.yaml")["datasources"]
    variables = services["grafana"]["environment"]

    assert str(defaults["TRACES_ENDPOINT"]).split(":")[0] in services
    assert str(defaults["METRICS_ENDPOINT"]).split("/")[2].split(":")[0] in services
    for source in sources:
        url = variables[source["url"].strip("${}")]
        assert url.split("/")[2].split(":")[0] in services
    for service in services.values():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
        assert [port for port in service["ports"] if not port.startswith("127.0.0.1:")] == []


def test_one_collector() -> None:
    """Images have the collector version that the configurations are tested with."""
    version = load(CONFIGURATIONS / "builder.yaml")["dist"]["version"]
    images = [
        load(COMPOSE)["services"]["collector"]["image"],
        *(
            pod(the(kind, name))["containers"][0]["image"]
            for kind, name in (("DaemonSet", "agent.yaml"), ("StatefulSet", "gateway.yaml"))
        ),
    ]

    assert images == [f"otel/opentelemetry-collector-contrib:{version}"] * 3
