"""Stores of one name share one file, and must agree about it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from otel_lifecycle import ConfigError, RequestLifecycleTracker, TrackerConfig
from tests.records.helpers import open_descriptors, recorded, serve
from tests.waiting import eventually

MakeTracker = Callable[..., RequestLifecycleTracker]


def test_one_name_one_file(make_tracker: MakeTracker, path: Path) -> None:
    """Trackers of one store name write to one file, opened once, until the last is closed."""
    first = make_tracker(path, store_name="shared", flush_threshold=1_000)
    second = make_tracker(path, store_name="shared", flush_threshold=1_000)
    assert first.store is second.store
    assert open_descriptors(path) == 1
    serve(first, "of first")
    serve(second, "of second")
    first.close()
    first.close()
    serve(first, "after close")
    serve(second, "of second again")
    second.close()
    expected = ["of first", "of second", "of second again"]
    assert expected == recorded(path)
    eventually(lambda: open_descriptors(path) == 0)


def test_one_of_them_without_persistence(make_tracker: MakeTracker, path: Path) -> None:
    """A tracker without persistence shares that of the others of its store."""
    without = make_tracker(None, store_name="shared")
    serve(without, "before")
    persisting = make_tracker(path, store_name="shared")
    serve(without, "since")
    assert persisting.flush()
    expected = ["since"]
    assert expected == recorded(path)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"flush_threshold": 2}, "flushThreshold=2 flushInterval=5s maxQueue=100000"),
        (
            {"flush_interval": timedelta(seconds=0.25)},
            "flushThreshold=0 flushInterval=0.25s maxQueue=100000",
        ),
        ({"max_queue": 7}, "flushThreshold=0 flushInterval=5s maxQueue=7"),
    ],
)
def test_conflict(
    make_tracker: MakeTracker, path: Path, settings: dict[str, object], text: str
) -> None:
    """Different persistence settings under one name are refused; the first tracker continues."""
    first = make_tracker(path, store_name="contested", flush_interval="5s")
    with pytest.raises(ConfigError) as refusal:
        make_tracker(path, store_name="contested", **{"flush_interval": "5s", **settings})
    expected = (
        "persistence of store 'contested' is already set to "
        f"outputPath={path} flushThreshold=0 flushInterval=5s maxQueue=100000, "
        f"and cannot be outputPath={path} {text} as well; "
        "use one setting or two store names"
    )
    assert expected == str(refusal.value)
    serve(first, *(requests := ["a"]))
    first.close()
    assert requests == recorded(path)


def test_zero_code_shares_a_store(path: Path) -> None:
    """Whoever says nothing of when to write takes what the other of its store says."""
    environment = {
        "OTEL_LIFECYCLE_STORE_NAME": f"shared by zero code: {path}",
        "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(path),
    }
    of_the_program = TrackerConfig.from_environment(environment)
    of_zero_code = TrackerConfig.for_zero_code(environment)
    said = TrackerConfig.from_environment(environment, persistence_flush_threshold=1_000)
    for first, second in (
        (of_the_program, of_zero_code),
        (of_zero_code, of_the_program),
        (said, of_zero_code),
    ):
        with contextlib.ExitStack() as stack:
            trackers = [RequestLifecycleTracker(config) for config in (first, second)]
            for tracker in trackers:
                stack.callback(tracker.close)
            assert trackers[0].store.persistence == first.persistence
            for tracker in trackers:
                serve(tracker, "one each")
    assert recorded(path) == ["one each"] * 6


def test_other_file_conflicts(make_tracker: MakeTracker, tmp_path: Path) -> None:
    """Another file is a conflict too, and is not created."""
    make_tracker(tmp_path / "a.jsonl", store_name="contested")
    with pytest.raises(ConfigError, match=r"^persistence of store 'contested' is already set"):
        make_tracker(tmp_path / "b.jsonl", store_name="contested")
    assert not (tmp_path / "b.jsonl").exists()


def test_name_is_free_again(make_tracker: MakeTracker, tmp_path: Path) -> None:
    """After the last close a name may be used with other settings."""
    first = make_tracker(tmp_path / "a.jsonl", store_name="reused")
    serve(first, "a")
    first.close()
    second = make_tracker(tmp_path / "b.jsonl", store_name="reused", flush_threshold=9)
    serve(second, "b")
    second.close()
    assert first.store is not second.store
    expected = [["a"], ["b"]]
    assert expected == [recorded(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]


def test_two_stores_of_one_file(make_tracker: MakeTracker, path: Path) -> None:
    """Two stores may write to one file, each with its own settings."""
    first = make_tracker(path, store_name="one")
    second = make_tracker(path, store_name="two", flush_threshold=1_000)
    serve(first, "a")
    assert first.flush()
    serve(second, "b")
    assert second.flush()
    serve(first, "c")
    assert first.flush()
    expected = ["a", "b", "c"]
    assert expected == recorded(path)
