"""`from_json`: the seed's factory, its parameters, defaults and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from otel_lifecycle import (
    ConfigError,
    PersistenceConfig,
    RequestLifecycleTracker,
    TrackerConfig,
    read_records,
)
from tests.hooks.shapes import Request, predicted, result, stream


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Callable[[str | bytes], RequestLifecycleTracker]:
    """Make trackers from JSON, which are closed when the test ends."""

    def make_tracker(text: str | bytes) -> RequestLifecycleTracker:
        tracker = RequestLifecycleTracker.from_json(text)
        request.addfinalizer(tracker.close)
        return tracker

    return make_tracker


@pytest.mark.parametrize(
    "text", ["", b"", "{}", "null", '{"storeName": ""}', '{"storeName": null, "persistence": null}']
)
def test_defaults(make: Callable[..., RequestLifecycleTracker], text: str | bytes) -> None:
    """Missing parameters and an empty store name mean the defaults."""
    tracker = make(text)

    assert tracker.config == TrackerConfig(store_name="hermes-inflight")
    assert tracker.config.persistence == PersistenceConfig(
        enabled=False, flush_threshold=0, flush_interval="0", output_path=""
    )
    assert tracker.store.name == "hermes-inflight"


def test_all_parameters(make: Callable[..., RequestLifecycleTracker], tmp_path: Path) -> None:
    """Every parameter of the seed is accepted, and the records are written to its path."""
    path = tmp_path / "completed.jsonl"
    tracker = make(
        json.dumps(
            {
                "storeName": "mine",
                "persistence": {
                    "enabled": True,
                    "flushThreshold": 100,
                    "flushInterval": "1m30s",
                    "outputPath": str(path),
                },
            }
        )
    )
    request = Request()
    tracker.pre_request(request, result(predicted("qwen-0")))
    stream(tracker, request)
    assert tracker.flush(timeout=30)

    assert tracker.config == TrackerConfig(
        store_name="mine",
        persistence=PersistenceConfig(
            enabled=True,
            flush_threshold=100,
            flush_interval=timedelta(seconds=90),
            output_path=str(path),
        ),
    )
    assert [record.request_id for record in read_records(path)] == ["request-1"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ('{"storename": "a", "extra": 1}', "unknown field 'extra'"),
        ('{"persistence": {"path": "x"}}', "unknown field 'persistence.path'"),
        ('{"persistence": {"flushThreshold": -1}}', "persistence.flushThreshold must be >= 0"),
        ('{"persistence": {"flushThreshold": 9223372036854775808}}', "persistence.flushThreshold "),
        ('{"persistence": {"flushInterval": "-1s"}}', "persistence.flushInterval must be >= 0"),
        ('{"persistence": {"flushInterval": "-1ns"}}', "persistence.flushInterval must be >= 0"),
        ('{"persistence": {"flushInterval": "soon"}}', "persistence.flushInterval .*'soon'"),
        ('{"persistence": {"flushInterval": "5"}}', "persistence.flushInterval .*'5'"),
        (
            '{"persistence": {"enabled": true}}',
            "persistence.outputPath is required when persistence is enabled",
        ),
        ('{"persistence": {"enabled": "yes"}}', "persistence.enabled "),
        ('{"persistence": {"flushThreshold": 1.5}}', "persistence.flushThreshold "),
        ('{"storeName": 7}', "storeName "),
        ("[]", ""),
        ('{"persistence": []}', ""),
        ("{", ""),
        ("{} {}", ""),
        ("\ufeff{}", ""),
        (b"\xef\xbb\xbf{}", ""),
        ("{}".encode("utf-16"), ""),
        (b'{"storeName": "\xff"}', ""),
        ('{"storeName": "\\ud800"}', ""),
    ],
    ids=str,
)
def test_refusals(parameters: str | bytes, message: str) -> None:
    """Each refusal of the seed is one line that names the field."""
    with pytest.raises(ConfigError, match=f"^invalid parameters: .*{message}") as refusal:
        RequestLifecycleTracker.from_json(parameters)

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "name", "persistence"),
    [
        ('{"storeName": "a", "storeName": "b"}', "b", {}),
        ('{"storeName": "a", "STORENAME": "b"}', "b", {}),
        ('{"STORENAME": "a", "storeName": "b", "storename": "c"}', "c", {}),
        ('{"storeName": "a", "storeName": null}', "a", {}),
        ('{"storeName": "a", "storeName": ""}', "hermes-inflight", {}),
        ('{"\u017ftoreName": "a"}', "a", {}),
        (
            '{"persistence": {"flushThreshold": 1, "flushInterval": "1s"},'
            ' "PERSISTENCE": null,'
            ' "persistence": {"flushThreshold": 2, "outputPath": "x"}}',
            "hermes-inflight",
            {"flush_threshold": 2, "flush_interval": "1s", "output_path": "x"},
        ),
        (
            '{"persistence": {"FLUSHTHRESHOLD": 1, "flushThreshold": 2}}',
            "hermes-inflight",
            {"flush_threshold": 2},
        ),
    ],
)
def test_keys(text: str, name: str, persistence: dict[str, Any]) -> None:
    """If a key occurs twice, in any case, the last counts; null leaves the default."""
    assert TrackerConfig.from_json(text) == TrackerConfig(
        store_name=name, persistence=PersistenceConfig(**persistence)
    )


def test_unknown_field_in_a_section_that_comes_twice() -> None:
    """A section that is overridden later must be valid too."""
    with pytest.raises(ConfigError, match=r"unknown field 'persistence\.x'$"):
        TrackerConfig.from_json('{"persistence": {"x": 1}, "persistence": {}}')


def test_path_that_cannot_be_written(tmp_path: Path) -> None:
    """Persistence that cannot start is refused at once, as an invalid setting."""
    parameters = {"persistence": {"enabled": True, "outputPath": str(tmp_path)}}
    with pytest.raises(ConfigError, match=r"^persistence\.outputPath "):
        RequestLifecycleTracker.from_json(json.dumps(parameters))


@pytest.mark.parametrize(
    ("interval", "microseconds"),
    [("1ns", 1), ("999ns", 1), ("1us1ns", 2), ("0.9ns", 0), ("300ms", 300_000)],
)
def test_short_intervals(interval: str, microseconds: int) -> None:
    """An interval is kept to the microsecond, rounded up: only 0 means no interval."""
    config = TrackerConfig.from_json(json.dumps({"persistence": {"flushInterval": interval}}))

    assert config.persistence.flush_interval == timedelta(microseconds=microseconds)


def test_empty_interval_is_the_default(make: Callable[..., RequestLifecycleTracker]) -> None:
    """An empty flush interval is no interval, as in the seed."""
    tracker = make('{"persistence": {"flushInterval": ""}}')

    assert tracker.config.persistence.flush_interval == timedelta(0)


def test_stores_are_shared_by_name(
    make: Callable[..., RequestLifecycleTracker], tmp_path: Path
) -> None:
    """Trackers with one store name share live state and file; settings must agree."""
    first, second, other = make('{"storeName": "a"}'), make('{"storeName": "a"}'), make("")
    first.pre_request(Request(), result(predicted("qwen-0")))
    loads = [tracker.store.active_requests for tracker in (first, second, other)]
    stream(second, Request())

    assert loads == [1, 1, 0]
    assert first.store.active_requests == 0

    path = tmp_path / "completed.jsonl"
    parameters: dict[str, Any] = {
        "storeName": "a", "persistence": {"enabled": True, "outputPath": str(path)}
    }  # fmt: skip
    make(json.dumps(parameters))
    second.pre_request(Request(), result(predicted("qwen-0")))
    stream(first, Request())
    assert second.flush(timeout=30)
    assert [record.request_id for record in read_records(path)] == ["request-1"]
    parameters["persistence"]["flushThreshold"] = 7
    with pytest.raises(ConfigError, match="persistence of store 'a'"):
        make(json.dumps(parameters))


def test_close_flushes(make: Callable[..., RequestLifecycleTracker], tmp_path: Path) -> None:
    """Closing writes queued records; the last tracker of a store releases file and name."""
    path = tmp_path / "completed.jsonl"
    parameters: dict[str, Any] = {
        "persistence": {"enabled": True, "flushThreshold": 100, "outputPath": str(path)}
    }
    tracker = make(json.dumps(parameters))
    request = Request()
    tracker.pre_request(request, result(predicted("qwen-0")))
    stream(tracker, request)
    other = make(json.dumps(parameters))
    other.pre_request(Request("other"), result(predicted("qwen-0")))
    tracker.pre_request(Request("open"), result(predicted("qwen-0")))
    tracker.close()
    tracker.close()
    stream(other, Request("other"))
    other.close()

    assert [(record.request_id, record.outcome.value) for record in read_records(path)] == [
        ("request-1", "completed"),
        ("open", "shutdown"),
        ("other", "completed"),
    ]
    assert make("").store is not tracker.store


def test_hooks_after_close(make: Callable[..., RequestLifecycleTracker]) -> None:
    """The hooks of a closed tracker do nothing."""
    tracker = make("")
    tracker.close()
    tracker.pre_request(Request(), result(predicted("qwen-0")))
    tracker.response_body(Request(), None)

    assert tracker.store.active_requests == 0
    assert tracker.store.ignored == {"closed": 1}
