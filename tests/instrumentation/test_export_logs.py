"""The log of a collector that accepts nothing is limited to one line per minute."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from otel_lifecycle.instrumentation import export_logs

EXPORTER = "opentelemetry.exporter.otlp.proto.grpc.exporter"


@pytest.fixture(autouse=True)
def only_our_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the exporter's own filter of duplicates."""
    monkeypatch.setattr(logging.getLogger(EXPORTER), "filters", [])


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A movable time; the exporters' log is limited."""
    now = [1_000.0]
    # Its own alone: event loops of other threads live by the other.
    monkeypatch.setattr(export_logs, "time", SimpleNamespace(monotonic=lambda: now[0]))
    export_logs.limit("test")
    yield now
    export_logs.unlimit("test")


def test_one_line_a_minute(seconds: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """The first line passes, and the next one counts those suppressed in its minute."""
    logger = logging.getLogger(EXPORTER)
    for second in range(150):
        seconds[0] = 1_000.0 + second
        logger.warning("%s is down", "collector:4317")

    assert caplog.messages == [
        "collector:4317 is down",
        "collector:4317 is down (59 more such lines since the last one)",
        "collector:4317 is down (59 more such lines since the last one)",
    ]


def test_what_is_no_warning_passes(seconds: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """Lines below a warning are not limited."""
    caplog.set_level(logging.DEBUG, logger=EXPORTER)
    for _ in range(3):
        logging.getLogger(EXPORTER).debug("reconnecting")

    assert caplog.messages == ["reconnecting"] * 3


def test_limited_as_long_as_somebody_wants_it(caplog: pytest.LogCaptureFixture) -> None:
    """Two instrumentations share the limit; the last one removes it."""
    logger = logging.getLogger(EXPORTER)
    filters = list(logger.filters)
    export_logs.limit("one")
    export_logs.limit("other")
    export_logs.unlimit("one")
    logger.warning("down")
    logger.warning("down")
    export_logs.unlimit("other")
    logger.warning("down")

    assert caplog.messages == ["down", "down"]
    assert logger.filters == filters
