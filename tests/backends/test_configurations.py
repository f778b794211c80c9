"""Every configuration is accepted by its program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.backends.programs import CONFIGURATIONS, validate

pytestmark = pytest.mark.backends

COMBINATIONS = [
    "local/collector.yaml",
    "local/collector.yaml tls.yaml",
    "agent/config.yaml",
    "agent/config.yaml tls.yaml",
    "agent/config.yaml agent/kafka.yaml",
    "gateway/config.yaml",
    "gateway/config.yaml tls.yaml",
    "gateway/config.yaml gateway/kafka.yaml",
    "gateway/config.yaml gateway/clickhouse.yaml",
    "gateway/config.yaml gateway/span-metrics.yaml",
    "gateway/config.yaml gateway/kafka.yaml gateway/clickhouse.yaml gateway/span-metrics.yaml",
]
# The variables without a default: addresses and paths.
ENVIRONMENT = {
    "GATEWAY_HOST": "gateways.example",
    "KAFKA_BROKER": "kafka.example:9092",
    "CLICKHOUSE_ENDPOINT": "tcp://clickhouse.example:9000",
    "OTLP_CERT_FILE": "/certificate.pem",
    "OTLP_KEY_FILE": "/key.pem",
}


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_is_valid(combination: str, tmp_path: Path) -> None:
    """`otelcol validate` reports no error."""
    paths = [CONFIGURATIONS / name for name in combination.split()]

    said = validate(paths, {**ENVIRONMENT, "QUEUE_DIRECTORY": str(tmp_path)})

    assert said == ""


def test_an_invalid_one_is_not(tmp_path: Path) -> None:
    """`otelcol validate`, which the test above relies on, reports a mistake."""
    mistake = tmp_path / "mistake.yaml"
    mistake.write_text("processors: {tail_sampling: {decision_weight: 5s}}")

    said = validate([CONFIGURATIONS / "gateway/config.yaml", mistake], ENVIRONMENT)

    assert "decision_weight" in said


def test_all_are_checked() -> None:
    """Every configuration of a collector is checked above."""
    folders = [CONFIGURATIONS, *(CONFIGURATIONS / name for name in ("agent", "gateway", "local"))]
    others = {"builder.yaml", "local/compose.yaml", "local/jaeger.yaml"}

    found = {
        str(path.relative_to(CONFIGURATIONS))
        for folder in folders
        for path in folder.glob("*.yaml")
    }

    assert found - others == {name for names in COMBINATIONS for name in names.split()}


def test_the_links_of_jaeger_are_made_of_attributes() -> None:
    """Every attribute in a link pattern is one of the span's."""
    interface = json.loads((CONFIGURATIONS / "jaeger-ui.json").read_text())
    attributes = {f"llm_router.route.{role}.id" for role in ("leader", "prefill", "decode")}

    keys = {pattern["key"] for pattern in interface["linkPatterns"] if pattern["type"] == "tags"}

    assert keys == attributes
