"""The log lines about requests that reached no engine."""

from __future__ import annotations

import logging

import pytest

from otel_lifecycle.instrumentation.http.unserved import SILENCE_SECONDS, Unserved


def test_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """The first request is logged at once, later ones together after a minute."""
    now = [1000.0]
    unserved = Unserved(lambda: now[0])
    with caplog.at_level(logging.WARNING, "otel_lifecycle"):
        unserved.tell("/first", [])
        now[0] += SILENCE_SECONDS - 1
        unserved.tell("/second", ["POST a:1/x (httpx)"])
        assert len(caplog.messages) == 1
        now[0] += 1
        unserved.tell("/second", ["POST a:1/y (aiohttp)"])
        unserved.tell("/third", [])

    first, second = caplog.messages
    assert "/first: 1" in first
    assert "/second: 2" in second
    assert "POST a:1/x (httpx), POST a:1/y (aiohttp)" in second


def test_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Clients that invent paths cause neither long warnings nor memory growth."""
    now = [1000.0]
    unserved = Unserved(lambda: now[0])
    with caplog.at_level(logging.WARNING, "otel_lifecycle"):
        unserved.tell("/first", [])
        for number in range(1000):
            unserved.tell(f"/{number}/" + "x" * 10_000, [f"POST {number}" for number in range(99)])
        now[0] += SILENCE_SECONDS
        unserved.tell("/last", [])

    assert "1001 requests" in caplog.messages[1]
    assert len(caplog.messages[1]) < 5_000
