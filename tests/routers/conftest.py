"""Fixtures of the routers' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.examples.cluster import Server
from tests.routers.scenarios import Engines
from tests.routers.scripted_engine import ScriptedEngine


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    """Two engines, in another process than the router."""
    pair = [(engine, Server(engine)) for engine in (ScriptedEngine(), ScriptedEngine())]
    yield pair
    for _, server in pair:
        server.stop()
