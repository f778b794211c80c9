"""Collectors of both protocols, and the exporter that is set up for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.records.shipping.collectors import GRPC, HTTP_PROTOBUF, Collector


@pytest.fixture(params=[GRPC, HTTP_PROTOBUF])
def collector(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Collector]:
    """A collector that takes everything; the standard variables name it."""
    with Collector(request.param) as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        yield collector
