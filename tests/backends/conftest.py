"""Fixtures: the real programs, and the example router in front of simulated engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.programs import Backends
from tests.backends.routers import Routers


@pytest.fixture
def backends(tmp_path: Path) -> Iterator[Backends]:
    """Makes collectors, Jaeger and Prometheus; what was started is stopped in the end."""
    backends = Backends(tmp_path)
    yield backends
    backends.stop()


@pytest.fixture
def routers(tmp_path: Path) -> Iterator[Routers]:
    """Makes routers; what was started is stopped in the end."""
    routers = Routers(tmp_path)
    yield routers
    routers.stop()
