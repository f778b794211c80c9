"""The configurations of Envoy in the repository."""

from __future__ import annotations

import re

import pytest

from otel_lifecycle.observation.envoy.entry import Answer, Entry
from scripts.envoy_presets import ROOT, presets


def test_presets_are_current() -> None:
    """`make docs` was run after the last change of what makes them."""
    assert {name: (ROOT / name).read_text("utf-8") for name in presets()} == presets()


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
