"""Pods are listed by the API of a cluster."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from otel_lifecycle import Endpoint
from tests.conftest import Bench
from tests.state.conftest import reasons, request
from tests.state.servers import Site, npu_exporter, send
from tests.waiting import eventually


def pod(name: str, namespace: str, address: str) -> dict[str, object]:
    """A pod as the API describes it, with the fields that are read."""
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "any"}},
        "spec": {"nodeName": "node-1", "containers": []},
        "status": {"podIP": address, "hostIP": "10.0.1.3", "phase": "Running"},
    }


def test_pods_by_label(
    collecting: Callable[..., Bench],
    make_site: Callable[..., Site],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exporter pods are scraped, and an endpoint gets the devices of its pod."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    api, exporter = make_site(tls=context), make_site()
    exporter.answers["/metrics"] = npu_exporter(60)
    questions = set()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        selector = parse_qs(parts.query)["labelSelector"][0]
        questions.add((parts.path, selector, handler.headers["Authorization"]))
        found = {
            "app=vllm": pod("qwen-0", "llm", "10.0.0.7"),
            "app=npu-exporter": pod("exporter-0", "npu-exporter", "127.0.0.1"),
        }
        body = json.dumps(
            {"kind": "PodList", "items": [found[selector], {**found[selector], "status": {}}]}
        )
        send(handler, body.encode(), content_type="application/json")

    api.answers = {
        "/api/v1/namespaces/llm/pods": answer,
        "/api/v1/namespaces/npu-exporter/pods": answer,
    }
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    (tmp_path / "token").write_text("the-token")
    (tmp_path / "namespace").write_text("llm")
    monkeypatch.setattr("otel_lifecycle.state.kubernetes.ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    bench = collecting(
        engine_pods="app=vllm",
        exporter_pods="app=npu-exporter",
        exporter_namespace="npu-exporter",
        exporter_port=exporter.port,
        endpoints=False,
    )
    endpoint = Endpoint(address="10.0.0.7", port="8000")

    eventually(lambda: "aiCoreUtilization" not in reasons(request(bench, endpoint)))
    assert bench.records[-1].prediction_inputs[0].ai_core_utilization == 60.0
    assert questions == {
        ("/api/v1/namespaces/llm/pods", "app=vllm", "Bearer the-token"),
        ("/api/v1/namespaces/npu-exporter/pods", "app=npu-exporter", "Bearer the-token"),
    }


def test_no_cluster(
    collecting: Callable[..., Bench], site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Outside a cluster one log line has the reason; everything else works."""
    site.answers["/npu"] = npu_exporter()
    collecting(engine_pods="app=vllm", targets=f"npu_exporter={site.url}/npu")

    eventually(lambda: site.asked["/npu"] > 3)
    assert [message for message in caplog.messages if message.startswith("Kubernetes")] == [
        "Kubernetes API: [Errno 2] No such file or directory; keeping the known pods"
    ]
