"""The router on real sockets, in front of simulated engines and worse ones."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests.examples.cluster import HTTP, Attempt, Calls, Cluster, End
from tests.examples.programmed_engine import DONE, EVENT, Engine
from tests.ports import free_port
from tests.waiting import PATIENCE_SECONDS, eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
EVENT_STREAM = [(b"content-type", b"text/event-stream")]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "hello " * 20, "max_tokens": 8, **fields}


def post(url: str, **fields: Any) -> httpx.Response:
    return HTTP.post(f"{url}/v1/completions", json=body(**fields))


def assert_completed(end: End, served_by: str) -> None:
    assert (end.cause, end.error, end.served_by) == ("natural", None, served_by)


def test_streaming(cluster: Cluster, calls: Calls) -> None:
    """The events arrive, the usage is read, and the end is natural."""
    cluster.add_engine("engine")
    url = cluster.start_router()
    response = post(url, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.count('"text"') == 8
    assert response.text.endswith("data: [DONE]\n\n")
    end = calls.end()
    assert_completed(end, "engine")
    assert end.usage is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (30, 8)
    assert end.usage.prompt_token_details.cached_tokens == 0
    assert calls.chunks >= 1
    assert calls.attempts == [Attempt(1, "", "engine")]


def test_usage_is_not_asked_for_on_the_clients_behalf(cluster: Cluster, calls: Calls) -> None:
    """The body is never changed, so without the option there is no usage."""
    cluster.add_engine("engine")
    response = post(cluster.start_router(), stream=True)
    assert "usage" not in response.text
    assert calls.end().usage is None


def test_not_streaming(cluster: Cluster, calls: Calls) -> None:
    """A complete answer has its usage."""
    cluster.add_engine("engine")
    messages = [{"role": "user", "content": "hello"}]
    response = HTTP.post(
        f"{cluster.start_router()}/v1/chat/completions",
        json={"model": "m", "messages": messages, "max_tokens": 3},
    )
    assert response.json()["choices"][0]["message"]["content"] == "the router sends "
    end = calls.end()
    assert_completed(end, "engine")
    assert end.usage is not None
    assert end.usage.completion_tokens == 3
    assert cluster.loads() == {"engine": (0, 0)}


def test_headers_towards_the_engine(cluster: Cluster, calls: Calls) -> None:
    """Request id and trace context are passed on; a missing id is generated."""
    cluster.add_engine("engine")
    url = f"{cluster.start_router()}/v1/completions"
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    given = {"x-request-id": "mine", "traceparent": traceparent, "tracestate": "a=b", "cookie": "c"}
    HTTP.post(url, json=body(), headers=given)
    HTTP.post(url, json=body())
    del given["cookie"]
    assert calls.headers[0] == {"content-type": "application/json", **given}
    assert calls.headers[1].keys() == {"content-type", "x-request-id"}
    engine = cluster.engines["engine"].url
    assert HTTP.get(f"{engine}/debug/traceparents").json() == {
        "traceparents": [{"traceparent": traceparent, "tracestate": "a=b", "x-request-id": "mine"}]
    }


def test_a_prefix_is_sent_where_it_is_cached(cluster: Cluster, calls: Calls) -> None:
    """The same long prompt goes to the same engine, which has it in its cache."""
    for name in ("engine-0", "engine-1", "engine-2"):
        cluster.add_engine(name, block_size=16)
    url = cluster.start_router()
    # Else the router does not know the size of its blocks.
    eventually(lambda: all(item["models"] for item in cluster.listing().values()))
    for number in range(1, 5):
        post(url, prompt="a rather long prompt " * 50)
        eventually(lambda number=number: len(calls.ends) == number)
    assert len({attempt.target for attempt in calls.attempts}) == 1
    usage = calls.ends[-1].usage
    assert usage is not None
    assert usage.prompt_token_details.cached_tokens == 256


def test_disaggregated(cluster: Cluster, calls: Calls) -> None:
    """The leader serves with the chosen pair."""
    roles = {"leader": "leader", "prefill": "prefill", "decode": "decode"}
    for name, role in roles.items():
        cluster.add_engine(name, role, block_size=16)
    url = cluster.start_router(mode="pd")
    for stream in (True, False):
        response = post(url, stream=stream, stream_options={"include_usage": True})
        assert response.status_code == 200
    for end in calls.ends:
        assert_completed(end, "leader")
    usage = calls.ends[1].usage
    assert usage is not None
    assert usage.prompt_token_details.cached_tokens == 16
    ports = {name: f"127.0.0.1:{engine.port}" for name, engine in cluster.engines.items()}
    assert calls.headers[0]["x-prefill-host-port"] == ports["prefill"]
    assert calls.headers[0]["x-decode-host-port"] == ports["decode"]
    assert cluster.loads() == dict.fromkeys(roles, (0, 0))


@pytest.mark.parametrize("fault", ["dead", "http_500"])
def test_the_leader_tells_who_failed(cluster: Cluster, calls: Calls, fault: str) -> None:
    """Another prefill takes over; leader and decode, of which there is one each, stay."""
    for name, role in [("leader", "leader"), ("p-0", "prefill"), ("d-0", "decode")]:
        cluster.add_engine(name, role)
    url = cluster.start_router(mode="pd")
    if fault == "dead":
        cluster.kill_engine("p-0")
    else:
        cluster.break_engine("p-0", fault)
    assert post(url).status_code == 502
    cluster.add_engine("p-1", "prefill")
    HTTP.post(f"{url}/admin/endpoints", json=cluster.describe("p-1")).raise_for_status()
    for _ in range(6):
        assert post(url).status_code == 200
    assert_completed(calls.ends[-1], "leader")
    reasons = {attempt.retry_reason for attempt in calls.attempts}
    assert reasons <= {"", "http_502" if fault == "dead" else "http_500"}


def test_retry_on_a_dead_endpoint(cluster: Cluster, calls: Calls) -> None:
    """The client does not notice a dead engine, and the next request avoids it."""
    cluster.add_engine("alive")
    cluster.add_engine("dead")
    url = cluster.start_router()
    cluster.kill_engine("dead")
    for _ in range(10):
        assert post(url).status_code == 200
    retries = [attempt for attempt in calls.attempts if attempt.attempt > 1]
    assert retries[0] == Attempt(2, "connect_error", "alive")
    # A client has its answer before the router has counted its end.
    eventually(lambda: len(calls.ends) == 10)
    assert {end.served_by for end in calls.ends} == {"alive"}
    assert cluster.loads() == {"alive": (0, 0), "dead": (0, 0)}


def test_retry_on_500(cluster: Cluster, calls: Calls) -> None:
    """An engine that fails before any output is replaced."""
    cluster.add_engine("good")
    cluster.add_engine("bad")
    url = cluster.start_router()
    cluster.break_engine("bad", "http_500")
    for _ in range(10):
        assert post(url, stream=True).status_code == 200
    assert Attempt(2, "http_500", "good") in calls.attempts
    assert {end.served_by for end in calls.ends} == {"good"}


def test_every_endpoint_fails(cluster: Cluster, calls: Calls) -> None:
    """If all endpoints fail, the client gets a 502 and the request ends once."""
    for name in ("a", "b"):
        cluster.add_engine(name)
        cluster.break_engine(name, "http_500")
    response = post(cluster.start_router())
    assert response.status_code == 502
    assert calls.end() == End("error", "http_500", None, None)
    assert [attempt.attempt for attempt in calls.attempts] == [1, 2]


def test_attempts_are_limited(cluster: Cluster, calls: Calls) -> None:
    """The last failure decides, also if it is an exception."""
    for name in ("a", "b", "c"):
        cluster.add_engine(name)
    url = cluster.start_router(max_attempts=2)
    for name in cluster.engines:
        cluster.kill_engine(name)
    assert post(url).status_code == 502
    assert len(calls.attempts) == 2
    assert isinstance(calls.end().error, httpx.ConnectError)


def test_an_upstream_400_is_passed_on(cluster: Cluster, calls: Calls) -> None:
    """The client's own mistake is not retried."""
    cluster.add_engine("engine")
    response = post(cluster.start_router(), max_tokens=-1)
    assert response.status_code == 400
    assert "max_tokens" in response.json()["error"]["message"]
    assert calls.end() == End("error", "http_400", "engine", None)


def test_drop_mid_stream(cluster: Cluster, calls: Calls) -> None:
    """A connection that breaks also breaks for the client."""
    cluster.add_engine("engine")
    url = cluster.start_router()
    cluster.break_engine("engine", "drop_mid_stream")
    with pytest.raises(httpx.RemoteProtocolError):
        post(url, stream=True)
    end = calls.end()
    assert (end.cause, end.served_by) == ("error", "engine")
    assert isinstance(end.error, httpx.RemoteProtocolError)


def test_truncated_stream(cluster: Cluster, calls: Calls) -> None:
    """A stream that ends normally but without `[DONE]` is an error."""
    cluster.add_engine("engine")
    url = cluster.start_router()
    cluster.break_engine("engine", "truncate")
    assert "[DONE]" not in post(url, stream=True).text
    assert calls.end() == End("error", "stream_truncated", "engine", None)


def test_disconnect_before_the_first_chunk(cluster: Cluster, calls: Calls) -> None:
    """A client that gives up on a hanging engine ends its request, which nobody served."""
    cluster.add_engine("engine")
    cluster.start_router()
    assert cluster.router is not None
    cluster.break_engine("engine", "hang")
    with socket.create_connection(("127.0.0.1", cluster.router.port)) as client:
        content = json.dumps(body()).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
        client.sendall(head.encode() + content)
        eventually(lambda: calls.attempts)
    assert calls.end() == End("client-disconnect", None, None, None)
    assert calls.chunks == 0
    assert cluster.loads() == {"engine": (0, 0)}


def test_disconnect_mid_stream(cluster: Cluster, calls: Calls) -> None:
    """The engine stops working for a client that has left."""
    engine = cluster.add_engine("engine", time_scale=1.0)
    url = f"{cluster.start_router()}/v1/completions"
    with HTTP.stream("POST", url, json=body(stream=True, max_tokens=4000)) as response:
        next(response.iter_raw())
    end = calls.end()
    assert (end.cause, end.error, end.served_by) == ("client-disconnect", None, "engine")
    idle = 'num_requests_running{engine="0",model_name="Qwen/Qwen3-8B"} 0.0\n'
    eventually(lambda: idle in HTTP.get(f"{engine.url}/metrics").text)


def test_shutdown_mid_stream(cluster: Cluster, calls: Calls) -> None:
    """A request cancelled with the router ends as an error."""
    cluster.add_engine("engine", time_scale=1.0)
    url = f"{cluster.start_router()}/v1/completions"
    with HTTP.stream("POST", url, json=body(stream=True, max_tokens=4000)) as response:
        chunks = response.iter_raw()  # collected, it would close the connection
        next(chunks)
        assert cluster.router is not None
        cluster.router.stop()
        cluster.router = None
    end = calls.end()
    assert (end.cause, end.served_by) == ("error", "engine")
    assert isinstance(end.error, BaseException)


def test_no_endpoint(cluster: Cluster, calls: Calls) -> None:
    """Without endpoints a request is rejected, and never dispatched."""
    response = post(cluster.start_router())
    assert response.status_code == 503
    assert (calls.rejections, calls.attempts, calls.ends) == (["no_endpoint"], [], [])


def test_endpoints_join_and_leave(cluster: Cluster, calls: Calls) -> None:
    """New endpoints are used and removed ones are not, while a running request continues."""
    url = cluster.start_router()
    engine, released = Engine(), threading.Event()
    engine.headers = EVENT_STREAM
    engine.pieces = [EVENT, released, DONE]
    cluster.add_app("engine", engine)
    description = cluster.describe("engine")
    added = HTTP.post(f"{url}/admin/endpoints", json=description)
    assert (added.status_code, added.json()["pod"]) == (201, "engine")
    with HTTP.stream("POST", f"{url}/v1/completions", json=body(stream=True)) as response:
        chunks = response.iter_raw()
        next(chunks)
        assert cluster.loads() == {"engine": (1, 30)}
        removed = HTTP.delete(f"{url}/admin/endpoints/demo/engine")
        assert (removed.status_code, removed.content) == (204, b"")
        released.set()
        assert b"".join(chunks).endswith(b"data: [DONE]\n\n")
    assert_completed(calls.end(), "engine")
    assert HTTP.delete(f"{url}/admin/endpoints/demo/engine").status_code == 404
    assert post(url).status_code == 503


def test_bad_input(cluster: Cluster) -> None:
    """Refusals have the format of OpenAI's."""
    url = cluster.start_router()
    for path, sent, field in [
        ("/v1/completions", b"{", "body"),
        ("/v1/chat/completions", b'{"model": "m", "messages": [1]}', "messages[0]"),
        ("/admin/endpoints", b"[]", "body"),
        ("/admin/endpoints", b'{"name": "x", "address": "h", "port": "80"}', "port"),
    ]:
        response = HTTP.post(f"{url}{path}", content=sent)
        error = response.json()["error"]
        assert (response.status_code, error["type"]) == (400, "invalid_request_error")
        assert error["param"] == field
        assert "allowed: " in error["message"]


def test_metrics_of_a_silent_endpoint_age(
    cluster: Cluster, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint that cannot be scraped keeps its last metrics, with their time."""
    monkeypatch.setattr("hermes_router.scraper.FORGET_AFTER_INTERVALS", 1_000_000)
    cluster.add_engine("engine")
    url = cluster.start_router()
    cluster.kill_engine("engine")

    def status_of_npus() -> str:
        post(url)
        target = calls.results[-1].target
        assert target.metrics is not None
        npu: Any = target.get("NPUStateKey")
        return npu.data_status

    eventually(lambda: status_of_npus() == "stale")
    age = cluster.listing()["engine"]["metricsAgeSeconds"]
    assert cluster.listing()["engine"]["metricsAgeSeconds"] > age


CHUNKS = [b"data: 1\r\n\r", b"\ndata: [DO", b"NE]\n\n"]


async def odd_engine(scope: Scope, receive: Receive, send: Send) -> None:
    """Send odd chunks, and a custom header."""
    if not scope["path"].startswith("/v1/"):
        await Response(status_code=404)(scope, receive, send)
        return
    headers = [*EVENT_STREAM, (b"x-engine", b"odd")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for chunk in CHUNKS:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def test_bytes_are_passed_on_unchanged(cluster: Cluster, calls: Calls) -> None:
    """Line ends and the engine's headers are unchanged; `[DONE]` may be split."""
    cluster.add_app("odd", odd_engine)
    response = post(cluster.start_router(), stream=True)
    assert response.content == b"".join(CHUNKS)
    assert response.headers["x-engine"] == "odd"
    assert_completed(calls.end(), "odd")


async def dying_engine(scope: Scope, receive: Receive, send: Send) -> None:
    """Start a stream and break the connection."""
    await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})


def test_retry_until_the_first_byte(cluster: Cluster, calls: Calls) -> None:
    """An engine that dies after sending only headers is replaced too."""
    cluster.add_app("dying", dying_engine)
    cluster.add_engine("good")
    url = cluster.start_router()
    for _ in range(10):
        assert post(url).status_code == 200
    assert Attempt(2, "connection_lost", "good") in calls.attempts


async def never_closing_engine(scope: Scope, receive: Receive, send: Send) -> None:
    """Finish the stream, but keep the response open until the client leaves."""
    await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


def test_leaving_after_done_is_natural(cluster: Cluster, calls: Calls) -> None:
    """A client that has everything it asked for may leave."""
    cluster.add_app("engine", never_closing_engine)
    url = f"{cluster.start_router(scrape_interval=60)}/v1/completions"
    with HTTP.stream("POST", url, json=body(stream=True)) as response:
        next(response.iter_raw())
    assert_completed(calls.end(), "engine")


def run_module(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hermes_router", *arguments],
        env={"PYTHONPATH": str(EXAMPLES)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_command_line(tmp_path: Path, cluster: Cluster) -> None:
    """The router starts from a file and ends cleanly when told to."""
    cluster.add_engine("engine")
    endpoints = tmp_path / "endpoints.json"
    endpoints.write_text(json.dumps([cluster.describe("engine")]))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = ["--port", str(port), "--endpoints", str(endpoints)]
    arguments += ["--training-records", str(tmp_path / "later.jsonl")]
    with run_module(*arguments) as process:
        try:
            eventually(lambda: is_up(url))
            assert post(url).status_code == 200
        finally:
            process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, stderr) == (0, "")


def is_up(url: str) -> bool:
    try:
        return HTTP.get(f"{url}/health").is_success
    except httpx.ConnectError:
        return False


def test_a_bad_endpoints_file_ends_in_one_line(tmp_path: Path) -> None:
    """The error names the entry, the field, the value and what is allowed."""
    endpoints = tmp_path / "endpoints.json"
    endpoints.write_text('[{"name": "x", "address": "h", "port": 0}]')
    with run_module("--endpoints", str(endpoints)) as process:
        _, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    allowed = "allowed: a number from 1 to 65535"
    assert process.returncode == 2
    assert stderr == f"hermes_router: {endpoints}[0].port is 0; {allowed}\n"
