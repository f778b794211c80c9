"""An application without a framework, under the supported servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.routers.scenarios import UPSTREAMS, Engines, Layers, check_traces

pytestmark = pytest.mark.routers

DISABLED = "fastapi,starlette,httpx,aiohttp-client"


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize(
    ("server", "framework"),
    [
        ("uvicorn", "asgi"),
        ("hypercorn", "asgi"),
    ],
)
def test_traces(
    engines: Engines, tmp_path: Path, server: str, framework: str, upstream: str
) -> None:
    """Each request gives one complete trace and one record, and nothing stays in flight."""
    options = ("--server", server, "--framework", framework)
    check_traces(engines, tmp_path, upstream, Layers(options, "", False, DISABLED))
