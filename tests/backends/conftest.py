"""Fixtures: the real backends, and the example router in front of simulated engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.programs import Backends
from tests.backends.routers import Routers


@pytest.fixture
def backends(tmp_path: Path) -> Iterator[Backends]:
    """Makes collectors, Jaeger and Prometheus, which are stopped at the end."""
    backends = Backends(tmp_path)
    yield backends
    backends.stop()


@pytest.fixture
def routers(tmp_path: Path) -> Iterator[Routers]:
    """Makes routers, which are stopped at the end."""
    routers = Routers(tmp_path)
    yield routers
    routers.stop()
