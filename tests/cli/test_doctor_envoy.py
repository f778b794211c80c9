"""`otel-lifecycle doctor --envoy`: what a configuration of Envoy tells."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_lifecycle.cli import main
from scripts.envoy_presets import OTLP, ROOT, presets


def http(config: dict[str, Any]) -> dict[str, Any]:
    """The connection manager of a preset."""
    listener = config["static_resources"]["listeners"][0]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


@pytest.mark.parametrize("name", sorted(set(presets()) - {OTLP}))
def test_presets_tell_everything(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A preset has all that a record is made of."""
    assert main(["doctor", "--envoy", str(ROOT / name)]) == 0
    output = capsys.readouterr().out
    assert "not told" not in output
    assert "warnings" not in output
    assert "/var/log/envoy/access.log" in output


def test_headers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Headers in the log, from which labels and targets may be taken, are named."""
    config = yaml.safe_load((ROOT / "collector/envoy/envoy-1.38.yaml").read_text())
    keys = http(config)["access_log"][1]["typed_config"]["log_format"]["json_format"]
    keys["headers"] = {"x-tenant-id": "%REQ(X-TENANT-ID)%", "x-class": "%REQ(X-CLASS)%"}
    path = tmp_path / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))

    assert main(["doctor", "--envoy", str(path)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "headers for labels and targets: x-class, x-tenant-id" in output


def without_upstream_log(manager: dict[str, Any]) -> None:
    del manager["http_filters"][-1]["typed_config"]["upstream_log"]


def without_new_requests(manager: dict[str, Any]) -> None:
    del manager["access_log_options"]


def without_tokens(manager: dict[str, Any]) -> None:
    del manager["access_log"][1]["typed_config"]["log_format"]["json_format"]["llm"]


def as_text(manager: dict[str, Any]) -> None:
    for log in manager["access_log"]:
        log["typed_config"]["log_format"] = {"text_format": "%REQ(:PATH)%\n"}


def with_other_times(manager: dict[str, Any]) -> None:
    manager["access_log"][1]["typed_config"]["log_format"]["json_format"]["t"] = "%START_TIME%"


def without_ids(manager: dict[str, Any]) -> None:
    del manager["access_log"][1]["typed_config"]["log_format"]["json_format"]["rid"]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (without_upstream_log, 0, "load of endpoints"),
        (without_new_requests, 0, "arrivals"),
        (without_tokens, 0, "model and tokens"),
        (as_text, 1, "no access log writes JSON"),
        (with_other_times, 1, "t must be"),
        (without_ids, 1, "has no rid"),
    ],
)
def test_what_is_missing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], None],
    code: int,
    said: str,
) -> None:
    """What is missing is named, and only what makes records impossible is a problem."""
    config = copy.deepcopy(yaml.safe_load((ROOT / "collector/envoy/envoy-1.38.yaml").read_text()))
    change(http(config))
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(config))

    assert main(["doctor", "--envoy", str(path)]) == code
    output = " ".join(capsys.readouterr().out.split())
    assert f"inference: {said}" in output or f"the log {said}" in output
    assert output.count(" - inference: ") == 1


@pytest.mark.parametrize(
    ("text", "code"), [("{", 2), ("[]", 1), ("a: [b", 2), ("hello", 1), (None, 2)]
)
def test_other_files(tmp_path: Path, text: str | None, code: int) -> None:
    """What is no configuration is refused in one line, or serves no HTTP."""
    path = tmp_path / "envoy.yaml"
    if text is not None:
        path.write_text(text)

    assert main(["doctor", "--envoy", str(path)]) == code


def test_command_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    """Either a command or a configuration."""
    assert main(["doctor", "--envoy", "x", "--", "router"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
