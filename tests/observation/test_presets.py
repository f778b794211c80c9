"""The configurations of Envoy in the repository."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from otel_lifecycle.observation.envoy.config import examine
from otel_lifecycle.observation.envoy.entry import Answer, Entry
from scripts.envoy_presets import ROOT, presets, snippets


def test_presets_are_current() -> None:
    """`make docs` was run after the last change of what makes them."""
    made = {**presets(), **snippets()}
    assert {name: (ROOT / name).read_text("utf-8") for name in made} == made


@pytest.mark.parametrize("name", list(presets()))
def test_every_key_is_read(name: str) -> None:
    """What a preset logs is a field of an entry, and what its filters find one of an answer."""
    text = presets()[name]
    logged = set(re.findall(r"^ +(\w+): ['\"]?%", text, re.MULTILINE)) - {"string_value", "value"}
    logged |= set(re.findall(r"- key: (\w+)\n +value:\n +string_value: ", text))
    found = set(re.findall(r"metadata_namespace: llm\n +key: (\w+)", text))
    found |= set(re.findall(r'metadata:set\("llm", "(\w+)"', text))

    assert logged <= set(Entry.__struct_fields__)
    assert {"t", "rid", "ep", "up", "llm"} <= logged
    assert found <= set(Answer.__struct_fields__)
    assert {"req_model", "stream"} <= found


def told(config: dict[str, Any]) -> set[str]:
    """What `observe` learns from a configuration of Envoy."""
    (findings,) = examine(config).values()
    return {finding.what for finding in findings if finding.told}


def test_envoy_gateway() -> None:
    """The log that Envoy Gateway is given has what the ends of requests have in the presets."""
    text = snippets()["collector/envoy/envoy-gateway.yaml"]
    proxy, extension = yaml.safe_load_all(text)
    (setting,) = proxy["spec"]["telemetry"]["accessLog"]["settings"]
    preset = yaml.safe_load(presets()["collector/envoy/envoy-1.38.yaml"])
    listener = preset["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    at_end = manager["access_log"][-1]["typed_config"]["log_format"]["json_format"]

    assert setting["format"] == {"type": "JSON", "json": at_end}
    assert setting["sinks"][0]["file"]["path"].startswith(
        proxy["spec"]["provider"]["kubernetes"]["envoyDeployment"]["container"]["volumeMounts"][0][
            "mountPath"
        ]
    )
    assert 'metadata:set("llm", key' in extension["spec"]["lua"][0]["inline"]


def test_istio() -> None:
    """Merged into a gateway with a picker, the patches tell all that the preset does."""
    preset = yaml.safe_load(presets()["collector/envoy/envoy-1.37.yaml"])
    (resource,) = yaml.safe_load_all(snippets()["collector/envoy/istio.yaml"])
    patches = [each["patch"]["value"] for each in resource["spec"]["configPatches"]]
    manager, bodies, streams, router = patches
    listener = preset["static_resources"]["listeners"][0]
    merged = listener["filter_chains"][0]["filters"][0]["typed_config"]
    expected = told(preset)
    picker = merged["http_filters"][1]
    for key in ("access_log", "access_log_options", "http_filters"):
        del merged[key]
    assert told({"x": merged}) == set()

    merged.update(manager["typed_config"], http_filters=[bodies, picker, streams, router])
    assert told(preset) == expected
