"""Fixtures: collectors, and a shipper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from otel_lifecycle.records import Follower
from otel_lifecycle.records.shipping import Checkpoint, Counts, Sender, Shipper
from tests.records.shipping.collectors import GRPC, HTTP_PROTOBUF, Collector
from tests.waiting import PATIENCE_SECONDS


class Shipping:
    """Ships the records of a folder, and keeps the log lines.

    Attributes:
        told: The log lines of all runs.
        checkpoint: The path of the checkpoint.
    """

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.told: list[str] = []
        self.checkpoint = checkpoint
        self._folder = folder

    def once(self, **options: Any) -> Counts:
        """Ship everything there is."""
        with self._open(**options) as (shipper, _):
            assert shipper.run(follow=False)
            return shipper.counts

    def until(self, condition: Callable[[], bool]) -> Counts:
        """Ship until a condition holds."""
        with self._open() as (shipper, sender):
            thread = Thread(target=shipper.run, kwargs={"follow": True})
            thread.start()
            while not condition():
                thread.join(0.01)
                assert thread.is_alive()
            shipper.stop()
            sender.close()
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()
            return shipper.counts

    @contextmanager
    def _open(self, **options: Any) -> Iterator[tuple[Shipper, Sender]]:
        sender = Sender()
        with Checkpoint(self.checkpoint) as checkpoint:
            position = checkpoint.load([self._folder])
            with Follower(self._folder, position=position) as follower:
                tell = self.told.append
                yield Shipper(follower, checkpoint, sender, tell, **options), sender


@pytest.fixture(params=[GRPC, HTTP_PROTOBUF])
def collector(request: pytest.FixtureRequest, use: Callable[[Collector], None]) -> Iterator[Any]:
    """A collector that accepts everything, of either protocol; exports go there."""
    with Collector(request.param) as collector:
        use(collector)
        yield collector


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Collector], None]:
    """Send exports to a collector."""

    def use(collector: Collector) -> None:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)

    return use


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the records."""
    folder = tmp_path / "records"
    folder.mkdir()
    return folder


@pytest.fixture
def shipping(tmp_path: Path, folder: Path) -> Shipping:
    """Ships the records of the folder."""
    return Shipping(folder, tmp_path / "checkpoint.json")
