"""Fixtures: engines for all tests, and an Envoy with a picker for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.envoy.picker import Picker
from tests.envoy.programs import Engine, Envoy

FAULTS = ("none", "http_500", "drop_mid_stream", "truncate", "hang")
# Envoy has what comes before a connection breaks if there is some time between the two, and a
# client can leave a stream that lasts minutes.
SLOW = {"drop_mid_stream": 100, "slow": 100}


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """An engine with each fault, and a slow one without."""
    folder = tmp_path_factory.mktemp("engines")
    with ExitStack() as stack:
        found: dict[str, Engine] = {}
        for name in (*FAULTS, "slow"):
            found[name] = Engine(folder, name if name in FAULTS else "none", SLOW.get(name, 1))
            stack.callback(found[name].close)
        yield found


@pytest.fixture
def envoy(tmp_path: Path) -> Iterator[Callable[..., Envoy]]:
    """Starts an Envoy with a preset, and a picker for it."""
    with ExitStack() as stack:

        def start(preset: str, **options: Any) -> Envoy:
            by_header = options.get("by_header", True)
            reports = preset.endswith("reporter")
            picker = stack.enter_context(Picker(by_header=by_header, reports=reports))
            envoy = Envoy(tmp_path, preset, picker, **options)
            stack.callback(envoy.close)
            return envoy

        yield start
