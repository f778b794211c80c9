"""Fixtures: trackers and processors that are closed at the end, and a disk that fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_lifecycle import LifecycleSpanProcessor, RequestLifecycleTracker
from tests.records import helpers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the record file, which may not exist yet."""
    return tmp_path / "records" / "records.jsonl"


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[helpers.Disk]:
    """A disk that can be made to fail."""
    disk = helpers.Disk(tmp_path)
    monkeypatch.setattr(os, "write", disk.write)
    yield disk
    disk.full = False
    disk.released.set()


@pytest.fixture
def make_tracker(disk: helpers.Disk) -> Iterator[Callable[..., RequestLifecycleTracker]]:
    """Make trackers, as `helpers.make_tracker` does."""
    trackers: list[RequestLifecycleTracker] = []

    def make(*arguments: Any, **settings: Any) -> RequestLifecycleTracker:
        tracker = helpers.make_tracker(*arguments, **settings)
        trackers.append(tracker)
        return tracker

    yield make
    disk.full = False
    disk.released.set()
    for tracker in trackers:
        tracker.close()


@pytest.fixture
def make_processor(disk: helpers.Disk) -> Iterator[Callable[..., LifecycleSpanProcessor]]:
    """Make processors with enabled persistence."""
    processors: list[LifecycleSpanProcessor] = []

    def make(path: Path | str, **settings: Any) -> LifecycleSpanProcessor:
        processor = LifecycleSpanProcessor(helpers.enabled(path, **settings))
        processors.append(processor)
        return processor

    yield make
    disk.full = False
    disk.released.set()
    for processor in processors:
        processor.shutdown()
