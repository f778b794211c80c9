"""The commands of the quickstart, from an empty folder to traces in Jaeger."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent

import httpx
import pytest
from demo.environment import SERVICE_NAME

from otel_lifecycle import read_records
from tests.backends.programs import HTTP, ROOT, Backends
from tests.backends.routers import Routers
from tests.backends.spans import plain_spans
from tests.waiting import eventually

pytestmark = pytest.mark.backends

INSTALLING_SECONDS = 1_200.0  # with everything that the demo needs

# What the page calls `my-router`.
ROUTER = """\
    #!/usr/bin/env python
    import argparse

    import httpx
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    port = parser.parse_args().port


    async def complete(request):
        async with httpx.AsyncClient(trust_env=False) as client:
            url = "{engine}" + request.url.path
            answer = await client.post(url, content=await request.body())
        return Response(answer.content, answer.status_code, media_type="application/json")


    app = Starlette(routes=[Route("/v1/completions", complete, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="warning")
"""


def commands() -> str:
    """The commands of the page; until the package is published, its first note applies."""
    page = (ROOT / "docs/quickstart.md").read_text("utf-8")
    assert "run `pip install '.[demo]'` in a checkout instead" in page
    blocks = re.findall(r"^```console\n(.*?)^```$", page, re.M | re.S)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    text = "\n".join(lines)
    assert text.count("'otel-lifecycle[demo]'") == 1
    return text.replace("'otel-lifecycle[demo]'", f"'{ROOT}[demo]'")


def write_program(path: Path, text: str) -> None:
    """Write a program to be found by its name."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(dedent(text))
    path.chmod(0o755)


@contextmanager
def shell(folder: Path, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell in a folder, as a new user has it; stops at the first command that fails."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    kept |= {"HOME": str(folder), "PATH": f"{folder / 'bin'}:{kept['PATH']}"}
    with (folder / "shell.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-ec", script],
            cwd=folder,
            env=kept,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_quickstart(backends: Backends, routers: Routers, tmp_path: Path) -> None:
    """Every command works as it is written, and Jaeger has the traces of both routers."""
    engine = routers.start(("aggregated",)).engines[0]
    jaeger = backends.jaeger(
        OTLP_GRPC_ENDPOINT="localhost:4317", QUERY_HTTP_ENDPOINT="localhost:16686"
    )
    jaeger.query = "http://localhost:16686"
    home = tmp_path / "home"
    home.mkdir()
    write_program(home / "bin/docker", '#!/bin/sh\necho "$@" > docker.arguments\n')
    write_program(home / "bin/my-router", ROUTER.format(engine=f"http://127.0.0.1:{engine.port}"))

    def answered() -> bool:
        said = (home / "shell.log").read_text(errors="replace")
        assert process.poll() is None, said[-4_000:]
        with suppress(httpx.TransportError):
            body = {"model": "m", "prompt": "Where to?", "max_tokens": 4}
            return HTTP.post("http://localhost:8000/v1/completions", json=body).is_success
        return False

    with shell(home, commands()) as process:
        eventually(answered, INSTALLING_SECONDS, what="my-router answers")
        path = home / "records.jsonl"
        eventually(lambda: path.exists() and len(list(read_records(path))) == 1, what="a record")
        eventually(lambda: len(plain_spans(jaeger.traces("my-router"))) == 1, what="a trace")

    ports = re.findall(r"-p (\d+):\1\b", (home / "docker.arguments").read_text())
    assert ports == ["4317", "16686"]
    demo = list(read_records(home / "demo/records.jsonl"))
    routes = [
        span
        for span in plain_spans(jaeger.traces(SERVICE_NAME))
        if span["scope"][0] == "otel_lifecycle"
    ]
    assert len(demo) == len(routes) == 300
    (record,) = read_records(path)
    (span,) = plain_spans(jaeger.traces("my-router"))
    assert (record.outcome, record.trace_id) == ("completed", span["trace_id"])
    for page in ("demo/report.html", "report.html"):
        assert (home / page).read_text().startswith("<!doctype html>")
    said = (home / "shell.log").read_text()
    assert "300 records, 0 bad lines" in said
    assert "Traceback" not in said
    assert "ERROR" not in said
