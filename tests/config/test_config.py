"""Settings: what is accepted, what is refused and how, and which source takes precedence."""

from __future__ import annotations

import inspect
import json
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_lifecycle import (
    ConfigError,
    PersistenceConfig,
    RequestLifecycleTracker,
    TrackerConfig,
)
from otel_lifecycle.config import environment_variables
from otel_lifecycle.config.collection import CollectionConfig, TargetConfig
from otel_lifecycle.config.prediction import PredictionConfig
from otel_lifecycle.config.prompt import PromptConfig
from otel_lifecycle.instrumentation import environment_variables as declared
from tests.wording import words

_PERSISTED = PersistenceConfig(
    enabled=True,
    flush_threshold=100,
    flush_interval=timedelta(seconds=5),
    output_path="/var/log/router/records.jsonl",
)


# What the seed's factory makes of nothing.
SEED = TrackerConfig(store_name="hermes-inflight")


@pytest.mark.parametrize("text", ["", " \n", "null", "{}", b"", b"{}"])
def test_no_parameters(text: str | bytes) -> None:
    """Without parameters every setting has its default."""
    expected = TrackerConfig(
        store_name="hermes-inflight",
        persistence=PersistenceConfig(
            enabled=False,
            flush_threshold=0,
            flush_interval=timedelta(0),
            output_path="",
            max_queue=100_000,
        ),
        paths=(),
        labels=(),
        labels_key="",
        slo=(),
        release_on_first_chunk="prefill",
        max_inflight=None,
        stale_after=timedelta(seconds=5),
        npu_device_attributes=False,
        decision_candidates=8,
        first_byte_attribute=False,
        phase_spans=False,
        otlp_encoder="lifecycle",
        writer="thread",
        max_metric_values=1_000,
        close_timeout=timedelta(seconds=5),
    )
    assert expected == TrackerConfig.from_json(text)


_SEED_JSON = """{
  "storeName": "prefill-decode",
  "persistence": {
    "enabled": true,
    "flushThreshold": 100,
    "flushInterval": "5s",
    "outputPath": "/var/log/router/records.jsonl"
  }
}"""


@pytest.mark.parametrize("text", [_SEED_JSON, _SEED_JSON.encode()])
def test_seed_parameters(text: str | bytes) -> None:
    """The seed's JSON is accepted as it is."""
    expected = TrackerConfig(store_name="prefill-decode", persistence=_PERSISTED)
    assert expected == TrackerConfig.from_json(text)


def test_every_parameter() -> None:
    """Each of our own settings has a camelCase name in JSON."""
    text = """{
      "storeName": "s",
      "persistence": {
        "enabled": true, "outputPath": "p", "maxQueue": 7, "rotateBytes": 8,
        "rotateInterval": "1h", "retainSegments": 9, "retainBytes": 10,
        "compression": "gzip", "fsync": "flush"
      },
      "releaseOnFirstChunk": "all",
      "maxInflight": 10,
      "staleAfter": "1.5s",
      "npuDeviceAttributes": true,
      "decisionCandidates": 3,
      "firstByteAttribute": true,
      "phaseSpans": true,
      "otlpEncoder": "sdk",
      "writer": "process",
      "maxMetricValues": 20,
      "closeTimeout": "250ms",
      "prompt": {"blocks": 512, "maxBlocks": 64, "key": "sixteen letters."}
    }"""
    expected = TrackerConfig(
        store_name="s",
        persistence=PersistenceConfig(
            enabled=True,
            output_path="p",
            max_queue=7,
            rotate_bytes=8,
            rotate_interval=timedelta(hours=1),
            retain_segments=9,
            retain_bytes=10,
            compression="gzip",
            fsync="flush",
        ),
        release_on_first_chunk="all",
        max_inflight=10,
        stale_after=timedelta(seconds=1.5),
        npu_device_attributes=True,
        decision_candidates=3,
        first_byte_attribute=True,
        phase_spans=True,
        otlp_encoder="sdk",
        writer="process",
        max_metric_values=20,
        close_timeout=timedelta(milliseconds=250),
        prompt=PromptConfig(blocks=512, max_blocks=64, key="sixteen letters."),
    )
    assert expected == TrackerConfig.from_json(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"storeName": ""}', SEED),
        ('{"storeName": null}', SEED),
        ('{"persistence": null}', SEED),
        ('{"persistence": {}}', SEED),
        ('{"persistence": {"flushInterval": ""}}', SEED),
        (
            '{"persistence": {"enabled": null, "flushThreshold": null, "flushInterval": null,'
            ' "outputPath": null}}',
            SEED,
        ),
        ('{"STORENAME": "a"}', TrackerConfig(store_name="a")),
        ('{"storename": "a", "storeName": "b"}', TrackerConfig(store_name="b")),
        (
            '{"Persistence": {"Enabled": true, "FLUSHTHRESHOLD": 100, "flushinterval": "5s",'
            ' "OutputPath": "/var/log/router/records.jsonl"}}',
            TrackerConfig(store_name="hermes-inflight", persistence=_PERSISTED),
        ),
        (
            '{"persistence": {"flushInterval": "0", "flushThreshold": 0}}',
            SEED,
        ),
        (
            '{"persistence": {"outputPath": "unused.jsonl"}}',
            TrackerConfig(
                store_name="hermes-inflight",
                persistence=PersistenceConfig(output_path="unused.jsonl"),
            ),
        ),
    ],
)
def test_like_go(text: str, expected: TrackerConfig) -> None:
    """Keys match in any case, and empty and null values mean the defaults, as in the seed."""
    assert expected == TrackerConfig.from_json(text)


_NO_DURATION = "is not a Go duration such as 300ms, 1.5h or 1h2m3s (units ns, us, ms, s, m, h)"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # What the seed refuses.
        (
            '{"persistence": {"flushThreshold": -1}}',
            "persistence.flushThreshold must be >= 0, got -1",
        ),
        (
            '{"persistence": {"flushInterval": "5"}}',
            f"persistence.flushInterval must be a valid duration: '5' {_NO_DURATION}",
        ),
        (
            '{"persistence": {"flushInterval": "1d"}}',
            f"persistence.flushInterval must be a valid duration: '1d' {_NO_DURATION}",
        ),
        (
            '{"persistence": {"flushInterval": "-1s"}}',
            "persistence.flushInterval must be >= 0, got '-1s'",
        ),
        (
            '{"persistence": {"enabled": true}}',
            "persistence.outputPath is required when persistence is enabled",
        ),
        (
            '{"persistence": {"enabled": true, "outputPath": ""}}',
            "persistence.outputPath is required when persistence is enabled",
        ),
        ('{"storename_": "a"}', "unknown field 'storename_'"),
        ('{"store_name": "a"}', "unknown field 'store_name'"),
        ('{"unknown": null}', "unknown field 'unknown'"),
        ('{"two\\nlines": 1}', r"unknown field 'two\nlines'"),
        ('{"persistence": {"path": "a"}}', "unknown field 'persistence.path'"),
        ('{"persistence": {"output_path": "a"}}', "unknown field 'persistence.output_path'"),
        # Types are strict, as in Go's decoder.
        ('{"storeName": 1}', "storeName must be text, got 1"),
        ('{"storeName": ["a"]}', "storeName must be text, got ['a']"),
        ('{"persistence": []}', "persistence must be a JSON object, got []"),
        ('{"persistence": "on"}', "persistence must be a JSON object, got 'on'"),
        ('{"persistence": {"enabled": 1}}', "persistence.enabled must be true or false, got 1"),
        (
            '{"persistence": {"enabled": "true"}}',
            "persistence.enabled must be true or false, got 'true'",
        ),
        (
            '{"persistence": {"flushThreshold": "1"}}',
            "persistence.flushThreshold must be a whole number, got '1'",
        ),
        (
            '{"persistence": {"flushThreshold": 1.0}}',
            "persistence.flushThreshold must be a whole number, got 1.0",
        ),
        (
            '{"persistence": {"flushThreshold": true}}',
            "persistence.flushThreshold must be a whole number, got True",
        ),
        (
            '{"persistence": {"flushInterval": 5}}',
            "persistence.flushInterval must be a Go duration such as 5s, or a timedelta, got 5",
        ),
        ('{"persistence": {"outputPath": 1}}', "persistence.outputPath must be text, got 1"),
        # Our own settings.
        ('{"persistence": {"maxQueue": 0}}', "persistence.maxQueue must be >= 1, got 0"),
        ('{"persistence": {"rotateBytes": -1}}', "persistence.rotateBytes must be >= 0, got -1"),
        (
            '{"persistence": {"compression": "zstd"}}',
            "persistence.compression must be one of 'none' or 'gzip', got 'zstd'",
        ),
        (
            '{"persistence": {"fsync": true}}',
            "persistence.fsync must be one of 'never', 'rotate' or 'flush', got True",
        ),
        (
            '{"persistence": {"enabled": true, "outputPath": "a", "retainBytes": 1}}',
            "persistence.retainBytes needs rotation, by bytes or by interval",
        ),
        (
            '{"persistence": {"enabled": true, "outputPath": "a", "compression": "gzip"}}',
            "persistence.compression needs rotation, by bytes or by interval",
        ),
        (
            '{"persistence": {"outputPath": "a-{host}.jsonl"}}',
            "persistence.outputPath must have no placeholders but {pid} and {instance}, "
            "got 'a-{host}.jsonl'",
        ),
        (
            '{"persistence": {"outputPath": "{pid}/a.jsonl"}}',
            "persistence.outputPath must have {pid} at most once, in the name of the file, "
            "got '{pid}/a.jsonl'",
        ),
        ('{"maxInflight": 0}', "maxInflight must be >= 1, got 0"),
        (
            '{"collection": {"targets": [{"url": "ftp://engine"}]}}',
            "collection.targets.0.url must be a URL such as http://10.0.0.7:8000/metrics, "
            "got 'ftp://engine'",
        ),
        (
            '{"collection": {"targets": [{"url": "http://me:secret@engine/metrics"}]}}',
            "collection.targets.0.url must be a URL without credentials, which go into "
            "authorizationFile, got 'http://***@engine/metrics'",
        ),
        (
            '{"collection": {"targets": [{"url": "http://engine:70000"}]}}',
            "collection.targets.0.url must be a URL such as http://10.0.0.7:8000/metrics, "
            "got 'http://engine:70000'",
        ),
        (
            '{"collection": {"targets": [{"source": "dcgm"}]}}',
            "collection.targets.0 url is required, and only npu_smi has none, "
            "got {'source': 'dcgm'}",
        ),
        ('{"collection": {"interval": "1ms"}}', "collection.interval must be >= 10ms, got '1ms'"),
        ('{"collection": {"exporterPort": 0}}', "collection.exporterPort must be >= 1, got 0"),
        (
            '{"collection": {"exporterPort": 65536}}',
            "collection.exporterPort must be <= 65535, got 65536",
        ),
        (
            '{"collection": {"metricsPath": "metrics"}}',
            "collection.metricsPath must be a path that begins with /, got 'metrics'",
        ),
        ('{"collection": {"target": []}}', "unknown field 'collection.target'"),
        (
            '{"staleAfter": "1s", "collection": {"enabled": true}}',
            "collection.interval must be shorter than staleAfter",
        ),
        (
            '{"prediction": {"url": "localhost:8001"}}',
            "prediction.url must be a URL such as http://10.0.0.7:8000/metrics, "
            "got 'localhost:8001'",
        ),
        (
            '{"prediction": {"url": "http://localhost", "model": "m"}}',
            "prediction.model and url exclude each other: set one of them",
        ),
        ('{"maxMetricValues": 0}', "maxMetricValues must be >= 1, got 0"),
        ('{"staleAfter": "-1ns"}', "staleAfter must be >= 0, got '-1ns'"),
        ('{"closeTimeout": "x"}', f"closeTimeout must be a valid duration: 'x' {_NO_DURATION}"),
        (
            '{"writer": "fork"}',
            "writer must be one of 'thread' or 'process', got 'fork'",
        ),
        (
            '{"releaseOnFirstChunk": "some"}',
            "releaseOnFirstChunk must be one of 'prefill', 'all' or 'none', got 'some'",
        ),
        (
            '{"maxInflight": 0, "storeName": 1}',
            "storeName must be text, got 1; maxInflight must be >= 1, got 0",
        ),
        # Not parameters at all.
        ("[]", "they must be a JSON object, got []"),
        ('"a"', "they must be a JSON object, got 'a'"),
        (
            "{",
            f"not valid JSON: {words(json.loads, '{')}",
        ),
        (
            b'{"storeName": "\xff"}',
            "not valid JSON: " + words(json.loads, b'{"storeName": "\xff"}'),
        ),
    ],
)
def test_refused(text: str | bytes, reason: str) -> None:
    """An invalid setting is refused with its field, its value and what is allowed."""
    with pytest.raises(ConfigError) as refusal:
        TrackerConfig.from_json(text)
    assert f"invalid parameters: {reason}" == str(refusal.value)


def test_tracker_from_json(tmp_path: Path) -> None:
    """The factory makes a tracker from JSON, and refuses what `TrackerConfig` refuses."""
    path = tmp_path / "records.jsonl"
    parameters = {
        "storeName": "from-json",
        "persistence": {"enabled": True, "outputPath": str(path), "flushInterval": "1h"},
    }
    tracker = RequestLifecycleTracker.from_json(json.dumps(parameters))
    tracker.close()
    assert tracker.store.name == "from-json"
    assert path.exists()
    with pytest.raises(ConfigError, match=r"unknown field 'x'"):
        RequestLifecycleTracker.from_json('{"x": 1}')


_JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["0", "5s", "1h2m", "-1ns", "", "a.jsonl"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)
_PERSISTENCE_FIELDS = ["enabled", "flushThreshold", "flushInterval", "outputPath", "maxQueue"]
_TRACKER_FIELDS = ["storeName", "maxInflight", "staleAfter", "closeTimeout", "maxMetricValues"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "persistence": st.dictionaries(
                st.sampled_from([*_PERSISTENCE_FIELDS, "ENABLED", "x"]), _JSON_VALUES
            ),
            **dict.fromkeys(_TRACKER_FIELDS, _JSON_VALUES),
        },
    )
)
def test_any_json(parameters: dict[str, Any]) -> None:
    """Any JSON gives settings or a `ConfigError` of one line."""
    _assert_settings_or_one_line(json.dumps(parameters))


@settings(deadline=None)
@given(st.text() | st.binary())
def test_any_text(text: str | bytes) -> None:
    """Any text gives settings or a `ConfigError` of one line."""
    _assert_settings_or_one_line(text)


def _assert_settings_or_one_line(text: str | bytes) -> None:
    problem: list[str] = []
    try:
        persistence = TrackerConfig.from_json(text).persistence
    except ConfigError as error:
        problem = str(error).splitlines()
    else:
        assert persistence.output_path or not persistence.enabled
    assert len(problem) <= 1


def test_deeply_nested_json() -> None:
    """JSON nested too deeply for Python is refused like any other invalid JSON."""
    with pytest.raises(ConfigError, match=r"^invalid parameters: not valid JSON: "):
        TrackerConfig.from_json("[" * 100_000)


_FROM_VARIABLES = {
    "OTEL_LIFECYCLE_STORE_NAME": ("from-env", {"store_name": "from-env"}),
    "OTEL_LIFECYCLE_RELEASE_ON_FIRST_CHUNK": ("none", {"release_on_first_chunk": "none"}),
    "OTEL_LIFECYCLE_PATHS": ("/ask, :run=chat", {"paths": ("/ask", ":run=chat")}),
    "OTEL_LIFECYCLE_LABELS": (
        "a=x-a;plain, dynamo;plain",
        {"labels": ("a=x-a;plain", "dynamo;plain")},
    ),
    "OTEL_LIFECYCLE_LABELS_KEY": ("0123456789abcdef", {"labels_key": "0123456789abcdef"}),
    "OTEL_LIFECYCLE_SLO": ("ttft=500ms, llm-d", {"slo": ("ttft=500ms", "llm-d")}),
    "OTEL_LIFECYCLE_MAX_INFLIGHT": ("12", {"max_inflight": 12}),
    "OTEL_LIFECYCLE_STALE_AFTER": ("1m", {"stale_after": timedelta(minutes=1)}),
    "OTEL_LIFECYCLE_NPU_DEVICE_ATTRIBUTES": ("true", {"npu_device_attributes": True}),
    "OTEL_LIFECYCLE_DECISION_CANDIDATES": ("3", {"decision_candidates": 3}),
    "OTEL_LIFECYCLE_FIRST_BYTE_ATTRIBUTE": ("true", {"first_byte_attribute": True}),
    "OTEL_LIFECYCLE_PHASE_SPANS": ("true", {"phase_spans": True}),
    "OTEL_LIFECYCLE_WRITER": ("process", {"writer": "process"}),
    "OTEL_LIFECYCLE_OTLP_ENCODER": ("sdk", {"otlp_encoder": "sdk"}),
    "OTEL_LIFECYCLE_MAX_METRIC_VALUES": ("13", {"max_metric_values": 13}),
    "OTEL_LIFECYCLE_CLOSE_TIMEOUT": ("0", {"close_timeout": timedelta(0)}),
    "OTEL_LIFECYCLE_PERSISTENCE_FLUSH_THRESHOLD": (
        "14",
        {"persistence": PersistenceConfig(flush_threshold=14)},
    ),
    "OTEL_LIFECYCLE_PERSISTENCE_FLUSH_INTERVAL": (
        "1.5h",
        {"persistence": PersistenceConfig(flush_interval=timedelta(hours=1.5))},
    ),
    "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": (
        "a.jsonl",
        {"persistence": PersistenceConfig(enabled=True, output_path="a.jsonl")},
    ),
    "OTEL_LIFECYCLE_PERSISTENCE_MAX_QUEUE": (
        "15",
        {"persistence": PersistenceConfig(max_queue=15)},
    ),
    "OTEL_LIFECYCLE_PERSISTENCE_ROTATE_BYTES": (
        "16",
        {"persistence": PersistenceConfig(rotate_bytes=16)},
    ),
    "OTEL_LIFECYCLE_PERSISTENCE_ROTATE_INTERVAL": (
        "1h",
        {"persistence": PersistenceConfig(rotate_interval=timedelta(hours=1))},
    ),
    "OTEL_LIFECYCLE_PERSISTENCE_RETAIN_SEGMENTS": (
        "17",
        {"persistence": PersistenceConfig(retain_segments=17)},
    ),
    "OTEL_LIFECYCLE_PERSISTENCE_RETAIN_BYTES": (
        "18",
        {"persistence": PersistenceConfig(retain_bytes=18)},
    ),
    "OTEL_LIFECYCLE_PERSISTENCE_COMPRESSION": (
        "gzip",
        {"persistence": PersistenceConfig(compression="gzip")},
    ),
    "OTEL_LIFECYCLE_PERSISTENCE_FSYNC": (
        "rotate",
        {"persistence": PersistenceConfig(fsync="rotate")},
    ),
}
_FROM_VARIABLES |= {
    f"OTEL_LIFECYCLE_COLLECTION_{name.upper()}": (
        text,
        {"collection": CollectionConfig(**{name: value})},
    )
    for name, text, value in [
        ("enabled", "true", True),
        ("endpoints", "false", False),
        ("metrics_path", "/prometheus", "/prometheus"),
        (
            "targets",
            "npu_exporter=http://10.0.1.3:8082/metrics, https://engine/metrics, npu_smi",
            [
                TargetConfig(source="npu_exporter", url="http://10.0.1.3:8082/metrics"),
                TargetConfig(source="engine", url="https://engine/metrics"),
                TargetConfig(source="npu_smi"),
            ],
        ),
        ("targets_file", "targets.json", "targets.json"),
        ("engine_pods", "app=vllm", "app=vllm"),
        ("exporter_pods", "app=npu-exporter", "app=npu-exporter"),
        ("engine_namespace", "llm", "llm"),
        ("exporter_namespace", "npu-exporter", "npu-exporter"),
        ("exporter_source", "dcgm", "dcgm"),
        ("exporter_port", "9400", 9400),
        ("interval", "500ms", timedelta(seconds=0.5)),
        ("timeout", "2s", timedelta(seconds=2)),
        ("max_backoff", "1m", timedelta(minutes=1)),
        ("forget_after", "0", timedelta(0)),
        ("concurrency", "8", 8),
        ("max_response_bytes", "65536", 65536),
        ("ca_file", "ca.pem", "ca.pem"),
        ("cert_file", "cert.pem", "cert.pem"),
        ("key_file", "key.pem", "key.pem"),
        ("tls_verify", "false", False),
    ]
}
_FROM_VARIABLES |= {
    f"OTEL_LIFECYCLE_PREDICTION_{name.upper()}": (
        text,
        {"prediction": PredictionConfig(**{name: value})},
    )
    for name, text, value in [
        ("model", "model.json", "model.json"),
        ("url", "http://localhost:8001", "http://localhost:8001"),
        ("training_url", "http://localhost:8000", "http://localhost:8000"),
        ("timeout", "20ms", timedelta(seconds=0.02)),
        ("max_queue", "16", 16),
    ]
}
_FROM_VARIABLES |= {
    f"OTEL_LIFECYCLE_PROMPT_{name.upper()}": (text, {"prompt": PromptConfig(**{name: value})})
    for name, text, value in [
        ("blocks", "512", 512),
        ("max_blocks", "64", 64),
        ("key", "sixteen letters.", "sixteen letters."),
    ]
}
_VARIABLES = [
    "OTEL_LIFECYCLE_CONFIG_FILE",
    "OTEL_LIFECYCLE_PERSISTENCE_ENABLED",
    *_FROM_VARIABLES,
]


@pytest.mark.parametrize("variable", _FROM_VARIABLES)
def test_variable(variable: str) -> None:
    """Each setting has a variable that sets only this setting."""
    value, settings = _FROM_VARIABLES[variable]
    assert TrackerConfig(**settings) == TrackerConfig.from_environment({variable: value})


def test_variables_are_declared() -> None:
    """The variables declared for `opentelemetry-instrument` are exactly those that are read."""
    names = {
        name: value for name, value in inspect.getmembers(declared) if name.startswith("OTEL_")
    }
    assert {name: name for name in _VARIABLES} == names
    assert sorted(_VARIABLES) == sorted(environment_variables())


@pytest.mark.parametrize("variable", _VARIABLES)
def test_empty_variable(variable: str) -> None:
    """An empty variable counts as not set, as everywhere in OpenTelemetry."""
    assert TrackerConfig() == TrackerConfig.from_environment({variable: ""})


def test_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default environment is that of the process."""
    monkeypatch.setenv("OTEL_LIFECYCLE_STORE_NAME", "of-the-process")
    assert TrackerConfig(store_name="of-the-process") == TrackerConfig.from_environment()


@pytest.mark.parametrize(
    ("environment", "arguments", "enabled"),
    [
        ({}, {}, False),
        ({"OUTPUT_PATH": "a"}, {}, True),
        ({}, {"persistence_output_path": "a"}, True),
        ({"OUTPUT_PATH": "a", "ENABLED": "false"}, {}, False),
        ({"OUTPUT_PATH": "a", "ENABLED": "true"}, {}, True),
        ({"OUTPUT_PATH": "a", "ENABLED": "true"}, {"persistence_enabled": False}, False),
        ({"OUTPUT_PATH": "a", "ENABLED": "false"}, {"persistence_enabled": True}, True),
        ({"OUTPUT_PATH": "a"}, {"persistence": PersistenceConfig(output_path="b")}, False),
    ],
)
def test_output_path_enables(
    environment: dict[str, str], arguments: dict[str, Any], enabled: bool
) -> None:
    """An output path enables persistence, unless a setting says otherwise."""
    variables = {f"OTEL_LIFECYCLE_PERSISTENCE_{name}": text for name, text in environment.items()}
    config = TrackerConfig.from_environment(variables, **arguments)
    assert enabled == config.persistence.enabled


def test_precedence(tmp_path: Path) -> None:
    """An argument overrides a variable, a variable the file, and the file the default."""
    file = tmp_path / "lifecycle.json"
    file.write_text(
        '{"storeName": "file", "maxInflight": 1, "maxMetricValues": 1, "closeTimeout": "1s",'
        ' "persistence": {"enabled": true, "outputPath": "file", "flushThreshold": 1,'
        ' "flushInterval": "1s"}}'
    )
    environment = {
        "OTEL_LIFECYCLE_CONFIG_FILE": str(file),
        "OTEL_LIFECYCLE_STORE_NAME": "environment",
        "OTEL_LIFECYCLE_MAX_INFLIGHT": "2",
        "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": "environment",
        "OTEL_LIFECYCLE_PERSISTENCE_FLUSH_THRESHOLD": "2",
    }
    expected = TrackerConfig(
        store_name="argument",
        max_inflight=2,
        max_metric_values=1,
        close_timeout=timedelta(seconds=1),
        persistence=PersistenceConfig(
            enabled=True,
            output_path="argument",
            flush_threshold=2,
            flush_interval=timedelta(seconds=1),
        ),
    )
    assert expected == TrackerConfig.from_environment(
        environment,
        store_name="argument",
        persistence_output_path="argument",
        max_metric_values=None,
    )


@pytest.mark.parametrize(
    ("variables", "flush"),
    [
        ({}, (100, timedelta(milliseconds=100))),
        ({"FLUSH_THRESHOLD": "0"}, (0, timedelta(0))),
        ({"FLUSH_INTERVAL": "0"}, (0, timedelta(0))),
        ({"FLUSH_THRESHOLD": "7"}, (7, timedelta(0))),
        ({"FLUSH_INTERVAL": "5s"}, (0, timedelta(seconds=5))),
    ],
)
def test_batches_of_zero_code(
    tmp_path: Path, variables: dict[str, str], flush: tuple[int, timedelta]
) -> None:
    """Unless anybody says when to write, it is when 100 records are queued, or after 100 ms."""
    environment = {f"OTEL_LIFECYCLE_PERSISTENCE_{name}": text for name, text in variables.items()}
    environment["OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH"] = str(tmp_path / "records.jsonl")
    config = TrackerConfig.for_zero_code(environment)
    persistence = config.persistence
    assert flush == (persistence.flush_threshold, persistence.flush_interval)
    others = {"flush_threshold": 0, "flush_interval": "0s"}
    assert TrackerConfig.from_environment(
        environment, **{f"persistence_{name}": value for name, value in others.items()}
    ) == config.model_copy(
        update={"persistence": PersistenceConfig(**{**persistence.model_dump(), **others})}
    )


def test_batches_in_a_file(tmp_path: Path) -> None:
    """A file may say so as well."""
    file = tmp_path / "lifecycle.json"
    file.write_text('{"persistence": {"enabled": true, "outputPath": "a", "flushThreshold": 0}}')
    config = TrackerConfig.for_zero_code({"OTEL_LIFECYCLE_CONFIG_FILE": str(file)})
    assert config == TrackerConfig.from_environment({"OTEL_LIFECYCLE_CONFIG_FILE": str(file)})


def test_file_and_path_elsewhere(tmp_path: Path) -> None:
    """A file may enable persistence and leave the path to each process."""
    file = tmp_path / "lifecycle.json"
    file.write_text('{"persistence": {"enabled": true, "flushThreshold": 3}}')
    environment = {
        "OTEL_LIFECYCLE_CONFIG_FILE": str(file),
        "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": "worker-1.jsonl",
    }
    expected = PersistenceConfig(enabled=True, flush_threshold=3, output_path="worker-1.jsonl")
    assert expected == TrackerConfig.from_environment(environment).persistence
    del environment["OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH"]
    with pytest.raises(ConfigError) as refusal:
        TrackerConfig.from_environment(environment)
    reason = "persistence.outputPath is required when persistence is enabled"
    assert f"invalid parameters: {reason}" == str(refusal.value)


@pytest.mark.parametrize(
    ("environment", "arguments", "reason"),
    [
        (
            {"OTEL_LIFECYCLE_MAX_INFLIGHT": "many"},
            {},
            "OTEL_LIFECYCLE_MAX_INFLIGHT='many': must be a whole number",
        ),
        (
            {"OTEL_LIFECYCLE_PERSISTENCE_ENABLED": "perhaps"},
            {},
            "OTEL_LIFECYCLE_PERSISTENCE_ENABLED='perhaps': must be true or false",
        ),
        (
            {"OTEL_LIFECYCLE_PERSISTENCE_FLUSH_THRESHOLD": "-1"},
            {},
            "invalid parameters: persistence.flushThreshold must be >= 0, got -1",
        ),
        (
            {"OTEL_LIFECYCLE_PERSISTENCE_FLUSH_INTERVAL": "5"},
            {},
            "invalid parameters: persistence.flushInterval must be a valid duration: "
            f"'5' {_NO_DURATION}",
        ),
        (
            {"OTEL_LIFECYCLE_PERSISTENCE_ENABLED": "true"},
            {},
            "invalid parameters: persistence.outputPath is required when persistence is enabled",
        ),
        (
            {},
            {"max_inflight": "12"},
            "invalid parameters: maxInflight must be a whole number, got '12'",
        ),
        ({}, {"no_such_option": 1}, "invalid parameters: unknown field 'no_such_option'"),
        ({}, {"persistence_mode": 1}, "invalid parameters: unknown field 'persistence.mode'"),
    ],
)
def test_refused_from_environment(
    environment: dict[str, str], arguments: dict[str, Any], reason: str
) -> None:
    """An invalid variable or argument is refused by its name."""
    with pytest.raises(ConfigError) as refusal:
        TrackerConfig.from_environment(environment, **arguments)
    assert reason == str(refusal.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            None,
            "OTEL_LIFECYCLE_CONFIG_FILE={path}: cannot be read: "
            "[Errno 2] No such file or directory: '{path}'",
        ),
        (
            b"\xff",
            "OTEL_LIFECYCLE_CONFIG_FILE={path}: cannot be read: " + words(b"\xff".decode),
        ),
        (
            b"{",
            "{path}: invalid parameters: not valid JSON: " + words(json.loads, "{"),
        ),
        (
            b'{"persistence": {"flushThreshold": -1, "enabled": true}}',
            "{path}: invalid parameters: persistence.flushThreshold must be >= 0, got -1",
        ),
        (
            b'{"persistence": []}',
            "{path}: invalid parameters: persistence must be a JSON object, got []",
        ),
    ],
)
def test_refused_file(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """An unusable file is refused with its name and the reason."""
    path = tmp_path / "lifecycle.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as refusal:
        TrackerConfig.from_environment({"OTEL_LIFECYCLE_CONFIG_FILE": str(path)})
    assert reason.format(path=path) == str(refusal.value)


def refusal_of(call: Callable[[], object]) -> str:
    """Return why a call refuses; it must not wait for ever."""
    refusals: list[str] = []

    def run() -> None:
        try:
            call()
        except ConfigError as error:
            refusals.append(str(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    (refusal,) = refusals
    return refusal


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_not_a_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe without a writer, a folder or a device is refused without waiting."""
    path = tmp_path / "lifecycle.json"
    make(path)
    environment = {"OTEL_LIFECYCLE_CONFIG_FILE": str(path)}

    assert refusal_of(lambda: TrackerConfig.from_environment(environment)) == (
        f"OTEL_LIFECYCLE_CONFIG_FILE={path}: cannot be read: {path} is not a regular file"
    )


_SECRET_URLS = [
    "http://engine:8000/metrics?token=secret",
    "http://engine:8000/metrics#secret",
    "http://engine:8000/metrics?a=it's \"secret",
]


@pytest.mark.parametrize("url", _SECRET_URLS)
def test_settings_are_shown_without_secrets(url: str) -> None:
    """Neither `repr` nor `str` of any settings shows secrets."""
    target = TargetConfig(url=url)
    collection = CollectionConfig(enabled=True, targets=(target,))
    prediction = PredictionConfig(url=url, training_url=url)
    for shown in (target, collection, prediction, TrackerConfig(prediction=prediction)):
        for text in (repr(shown), str(shown)):
            assert "secret" not in text
    assert "engine=http://engine:8000/metrics" in str(collection)
    assert (target.url, prediction.url) == (url, url)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://engine/metrics?token=secret",
        "engine/metrics#secret",
        "http://user:secret@engine/metrics",
        "http://user:pass/secret@engine",
        "http://user:secret?pass@engine",
        "http://[engine?secret",
        "http://engine:secret",
    ],
)
@pytest.mark.parametrize(
    "values",
    [
        lambda url: {"prediction": {"url": url}},
        lambda url: {"prediction": {"trainingUrl": url}},
        lambda url: {"collection": {"targets": [{"url": url}]}},
        lambda url: {"collection": {"targets": f"dcgm={url}"}},
        lambda url: {"collection": {"targets": [{"source": "npu_smi", "url": url}]}},
        lambda url: {"collection": url},
    ],
    ids=["url", "trainingUrl", "targets", "text", "npu_smi", "section"],
)
def test_refused_without_secrets(url: str, values: Callable[[str], Any]) -> None:
    """The error of an invalid setting names it, and hides possible secrets."""
    with pytest.raises(ConfigError) as refusal:
        TrackerConfig.from_json(json.dumps(values(url)))

    assert "invalid parameters" in str(refusal.value)
    assert "secret" not in str(refusal.value).replace("engine:secret", "")


def test_collection_set_twice_is_shown_without_secrets() -> None:
    """The error about conflicting stores shows no secrets either."""

    def collecting(token: str) -> TrackerConfig:
        targets = (TargetConfig(url=f"http://127.0.0.1:1/metrics?token={token}"),)
        collection = CollectionConfig(enabled=True, endpoints=False, targets=targets)
        return TrackerConfig(store_name="secrets", collection=collection)

    tracker = RequestLifecycleTracker(collecting("secret-1"))
    with pytest.raises(ConfigError) as refusal:
        RequestLifecycleTracker(collecting("secret-2"))
    tracker.close()

    assert "engine=http://127.0.0.1:1/metrics?***" in str(refusal.value)
    assert "secret-" not in str(refusal.value)


@pytest.mark.parametrize(
    "variable", ["CONFIG_FILE", "PERSISTENCE_OUTPUT_PATH", "COLLECTION_CA_FILE"]
)
def test_home_of_nobody(variable: str) -> None:
    """A path in the home of a user who does not exist is an invalid setting."""
    environment = {
        "OTEL_LIFECYCLE_COLLECTION_ENABLED": "true",
        f"OTEL_LIFECYCLE_{variable}": "~nouser/a",
    }
    with pytest.raises(ConfigError, match="~nouser/a"):
        RequestLifecycleTracker(TrackerConfig.from_environment(environment))


@pytest.mark.parametrize("setting", ["ca_file", "cert_file"])
def test_certificate_that_is_a_pipe(tmp_path: Path, setting: str) -> None:
    """A certificate that is a pipe is refused before a library waits for it."""
    os.mkfifo(tmp_path / "pipe")
    environment = {"OTEL_LIFECYCLE_COLLECTION_ENABLED": "true"}
    config = TrackerConfig.from_environment(
        environment, **{f"collection_{setting}": str(tmp_path / "pipe")}
    )

    pipe = f"{tmp_path}/pipe"
    assert refusal_of(lambda: RequestLifecycleTracker(config)) == (
        f"collection: {pipe}: cannot be read as a certificate: {pipe} is not a regular file"
    )


def test_settings_are_values() -> None:
    """Settings are immutable."""
    with pytest.raises(ValueError, match="frozen"):
        TrackerConfig().store_name = "other"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_inflight": 0}, "max_inflight must be >= 1, got 0"),
        ({"unknown": 1}, "unknown field 'unknown'"),
        (
            {"persistence": {"enabled": True}},
            "persistence.output_path is required when persistence is enabled",
        ),
    ],
)
def test_constructor(settings: dict[str, Any], message: str) -> None:
    """In Python too an invalid setting raises `ConfigError`, with its Python name."""
    with pytest.raises(ConfigError) as refused:
        TrackerConfig(**settings)

    assert str(refused.value) == f"invalid parameters: {message}"
