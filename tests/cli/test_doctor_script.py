"""What the doctor reports about the source of a router."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from otel_lifecycle.cli.doctor.source import Source, read_source
from tests.cli.command import Command
from tests.cli.environments import make_package, make_program, sections, words

NOT_EXPORTED = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
PROXY = """
    import threading
    import grpc
    import httpx
    from fastapi import FastAPI

    raise SystemExit("the script was run")
    app = FastAPI()

    def get_next_client(app, service): ...

    async def send_request_to_service(client, endpoint): ...

    async def stream_service_response(client, endpoint):
        async with client["client"].stream("POST", f"{client['url']}/v1/completions?x=1"): ...
        await client["client"].post("/door", json={})

    @app.post("/v1/chat/completions")
    async def chat(request): ...

    @app.post("/ask")
    async def ask(request): ...

    @app.post("/other")
    async def other(request): ...

    @app.get("/health")
    async def health(): ...

    threading.Thread(target=print).start()
    """


def test_executable_script(start: Callable[..., Command], tmp_path: Path) -> None:
    """A script that is a program by its first line is read, too."""
    make_program(tmp_path / "my-router", f"#!{sys.executable}\n{dedent(PROXY)}")
    environment = {**NOT_EXPORTED, "PATH": str(tmp_path)}

    _, output, _ = start("doctor", "my-router", environment=environment).wait()

    source = sections(output)["source"]
    assert source.startswith(words(f"read {tmp_path / 'my-router'}, but not the modules"))
    assert "serves by POST /v1/chat/completions (chat)" in source


def test_script(start: Callable[..., Command], tmp_path: Path) -> None:
    """The source is read, not run: recognised router, paths, clients, and what is not followed."""
    script = tmp_path / "proxy.py"
    script.write_text(dedent(PROXY))
    environment = {
        **NOT_EXPORTED,
        "OTEL_LIFECYCLE_PATHS": "/ask=chat",
        "OTEL_LIFECYCLE_PERSISTENCE_OUTPUT_PATH": str(tmp_path / "records.jsonl"),
    }

    code, output, _ = start("doctor", sys.executable, str(script), environment=environment).wait()

    found = sections(output)
    assert (code, found["verdict"]) == (0, "this would work")
    assert found["source"] == words(
        f"read {script}, but not the modules that it imports",
        "recognised as a PD proxy (pd_proxy), by send_request_to_service,",
        "stream_service_response, get_next_client",
        "requests come in through fastapi (from its routing)",
        "engines are called through httpx (followed), grpc (not followed)",
        "serves by POST /v1/chat/completions (chat), /ask (chat), /other (not inference)",
        "calls by POST /v1/completions (text_completion), /door (not inference)",
    )
    for warning in (
        "engines are called through grpc, which no instrumentation follows",
        "requests to /other are not followed",
        "calls to /door count as engine calls only if",
        f"{script} starts its own threads",
    ):
        assert warning in found["warnings"]


@pytest.mark.parametrize("module", ["router", "router.app"])
def test_module(start: Callable[..., Command], tmp_path: Path, module: str) -> None:
    """A module is read without importing it or its package."""
    run = "raise SystemExit('the module was run')"
    make_package(tmp_path / "router", __main__=run, app=f"import flask\n{run}")
    (tmp_path / "router" / "__init__.py").write_text(run)

    _, output, _ = start(
        "doctor", "--", sys.executable, "-m", module, environment={"PYTHONPATH": str(tmp_path)}
    ).wait()

    found = sections(output)["source"]
    file = "__main__" if module == "router" else "app"
    assert f"read {tmp_path}/router/{file}.py, but not the modules that it imports" in found
    assert "recognised as no PD proxy; asgi_router follows its calls" in found
    assert ("flask (not followed)" in found) is (file == "app")


@pytest.mark.parametrize(
    "content",
    [b"def", b"\xff\xfe", b"x = '\0'", b"(" * 100_000],
    ids=["syntax", "encoding", "zero byte", "deep"],
)
def test_unreadable(start: Callable[..., Command], tmp_path: Path, content: bytes) -> None:
    """A file that cannot be read is reported, and the other checks still run."""
    script = tmp_path / "router.py"
    script.write_bytes(content)

    _, output, _ = start("doctor", sys.executable, str(script)).wait()

    found = sections(output)
    assert "cannot be read" in found["source"]
    assert "record file" in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app.post('/a')(handler)", Source(served={"/a": None})),
        ("app.add_api_route('/a', handler, methods=['POST'])", Source(served={"/a": None})),
        ("app.add_api_route('/a', handler, methods=['GET'])", Source()),
        ("app.add_api_route('/a', handler, methods=[*METHODS])", Source(served={"/a": None})),
        ("Route('/a/{path:path}', handler)", Source(served={"/a/{path:path}": None})),
        ("web.post('/a', handler)", Source(served={"/a": None})),
        ("client.post('/a')", Source(called={"/a": None})),
        ("client.post(base + '/a')", Source(called={"/a": None})),
        ("client.request('POST', f'{base}/a?key=x')", Source(called={"/a": None})),
        ("requests.post('http://engine:80/v1/a')", Source(called={"/v1/a": None})),
        ("requests.post('http://engine:80')", Source()),
        ("requests.post(f'{url}')", Source()),
        ("requests.post(f'')", Source()),
        ("client.post()", Source()),
        ("import a.b, c as d", Source(modules={"a", "a.b", "c"})),
        ("from a import web\nfrom . import x", Source(modules={"a", "a.web"})),
        ("class A:\n def b(self): ...\ndef c(): ...", Source(names={"A.b", "c"})),
    ],
)
def test_source(text: str, expected: Source) -> None:
    """Routes, calls, imports and definitions are found in all common forms."""
    assert read_source(text) == expected
