"""Names of endpoints, and the pods behind their addresses."""

from __future__ import annotations

import json
import ssl
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import trustme

from otel_lifecycle.config import CollectionConfig
from otel_lifecycle.model import Endpoint
from otel_lifecycle.observation.endpoints import Endpoints
from otel_lifecycle.observation.pods import EnginePods
from otel_lifecycle.state.matching import Pod
from tests.observation.entries import ENGINE, Joined, whole
from tests.state.servers import Site, send

POD = Endpoint("llm", "vllm-0", "10.0.0.1", "8000")
PODS = {
    "10.0.0.1": Pod("llm", "vllm-0", "10.0.0.1"),
    "fd00::2": Pod("llm", "vllm-1", "fd00::2"),
    "10.0.0.9": Pod("", "", "10.0.0.9"),  # an address that pods share
}


def test_pods() -> None:
    """An address is that of a pod, and the name a picker gives it leads to the same endpoint."""
    endpoints = Endpoints(pods=lambda: PODS)
    found = endpoints.of(ENGINE)

    assert found is not None
    assert found.endpoint == POD
    assert endpoints.named("llm/vllm-0-rank-0") is found.endpoint
    assert endpoints.named("llm/vllm-1") == Endpoint("llm", "vllm-1", "fd00::2", "8000")
    assert endpoints.named("other/vllm-0") is None
    shared = endpoints.of("10.0.0.9:8000")
    assert shared is not None
    assert shared.endpoint.id == "addr://10.0.0.9:8000"


def test_several_ports() -> None:
    """Nobody says which port a name means, if there are several."""
    endpoints = Endpoints(pods=lambda: PODS)
    endpoints.of("10.0.0.1:8000")
    endpoints.of("10.0.0.1:8001")

    assert endpoints.named("llm/vllm-0-rank-1") is None
    assert endpoints.named("llm/vllm-0-rank-1", "10.0.0.1:8001") is not None
    assert endpoints.named("llm/vllm-0-rank-1") is not None  # as the picker has said


def test_pods_that_come_later() -> None:
    """An address is looked up again when the pods have changed."""
    pods: dict[str, Pod] = {}
    endpoints = Endpoints(pods=lambda: pods)
    joined = Joined(endpoints=endpoints).take(whole("a"))
    pods = PODS
    joined.take(whole("b"))

    assert [record.selected_endpoint for record in joined.records] == [
        "addr://10.0.0.1:8000",
        "pod://llm/vllm-0",
    ]


def test_names_of_a_file() -> None:
    """A file may leave the namespace out, as that of the picker's file discovery does."""
    named = Endpoint(address="10.0.0.1", port="8000", name="d0")
    endpoints = Endpoints({ENGINE: named})

    assert endpoints.named("default/d0") is named
    assert endpoints.named("default/d1") is None


def test_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods are listed by label with the service account; exporters are not asked for."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    site = Site(tls=context)
    item = {
        "metadata": {"name": "vllm-0", "namespace": "llm"},
        "spec": {"nodeName": "node-1"},
        "status": {"podIP": "10.0.0.1", "hostIP": "10.0.1.3"},
    }

    def answer(handler: BaseHTTPRequestHandler) -> None:
        assert "app%3Dvllm" in handler.path
        send(handler, json.dumps({"items": [item]}).encode(), content_type="application/json")

    site.answers["/api/v1/namespaces/llm/pods"] = answer
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    (tmp_path / "token").write_text("the-token")
    monkeypatch.setattr("otel_lifecycle.state.kubernetes.ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(site.port))
    pods = EnginePods(
        CollectionConfig(engine_pods="app=vllm", engine_namespace="llm", exporter_pods="app=npu")
    )
    try:
        pods.wait(60.0)
        found = Endpoints(pods=pods.by_address).of(ENGINE)
    finally:
        pods.close(5.0)
        site.stop()

    assert found is not None
    assert found.endpoint == POD
    assert set(site.asked) == {"/api/v1/namespaces/llm/pods"}
