"""What zero code records of a request because the settings ask for it, and nothing else."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from engine_sim.app import create_app as create_engine
from engine_sim.config import EngineConfig

from otel_lifecycle import LifecycleRecord
from tests.instrumentation.generic_routers import HttpxUpstream, make_router
from tests.instrumentation.test_generic import Observed, unobserved

KEY = "a key of the operator"
SECRET = "zebra-4711"


def hashed(value: str) -> str:
    """What is recorded of a value that is hashed."""
    return hmac.new(KEY.encode(), value.encode(), "sha256").hexdigest()[:32]


@pytest.fixture
def make_observed(tmp_path: Path) -> Iterator[Callable[..., Observed]]:
    """Make routers with settings."""
    made: list[Observed] = []

    def make(**options: Any) -> Observed:
        observed = Observed(tmp_path / "records.jsonl", **options)
        made.append(observed)
        engine = unobserved(create_engine(EngineConfig()))
        url = observed.cluster.add_app("engine", engine).url
        observed.serve(make_router(HttpxUpstream([url])))
        return observed

    yield make
    for observed in made:
        observed.stop()


def labels(record: LifecycleRecord) -> dict[str, str] | None:
    """The labels of a record."""
    return None if record.labels is msgspec.UNSET else record.labels


def test_headers_and_body(make_observed: Callable[..., Observed]) -> None:
    """Labels come from headers and from the body, the first that has a value, and targets too."""
    observed = make_observed(
        labels="tenant=x-tenant-id,dynamo,big=body:metadata.big;plain",
        labels_key=KEY,
        slo="llm-d,e2e=1h",
    )
    context = {"session_id": "of the body", "trajectory_id": "t", "session_type_id": "coding"}
    fields = {"nvext": {"agent_context": context}, "metadata": {"big": True, "user": SECRET}}
    headers = {"X-Tenant-Id": "acme", "X-Dynamo-Session-ID": "s", "X-Slo-Ttft-Ms": "1e8"}
    observed.post(headers=headers, stream=True, **fields)
    observed.post(prompt="x" * (1 << 20), **fields)
    observed.post()
    first, big, plain = observed.records(3)

    of_body = {"trajectory_id": hashed("t"), "session_type_id": "coding", "big": "true"}
    assert labels(first) == {"tenant": hashed("acme"), "session_id": hashed("s"), **of_body}
    assert labels(big) == {"session_id": hashed("of the body"), **of_body}
    assert labels(plain) is None
    assert first.slo is not msgspec.UNSET
    assert msgspec.to_builtins(first.slo) == {
        "ttft": {"targetMillis": 1e8, "met": True},
        "e2e": {"targetMillis": 3_600_000.0, "met": True},
    }


def test_body_in_pieces(make_observed: Callable[..., Observed]) -> None:
    """A field that comes in the last piece of a body is found."""
    observed = make_observed(labels="user=body:user;plain")
    assert observed.cluster.router is not None
    body = json.dumps({"model": "m", "prompt": "hi", "max_tokens": 2, "user": "u-1"}).encode()

    def pieces() -> Iterator[bytes]:
        yield body[:20]
        yield body[20:]

    url = observed.cluster.router.url + "/v1/completions"
    httpx.post(url, content=pieces(), timeout=30, trust_env=False)

    assert labels(observed.record()) == {"user": "u-1"}


@pytest.mark.parametrize("settings", [{}, {"labels": "llm-d,dynamo", "labels_key": KEY}])
def test_privacy(
    make_observed: Callable[..., Observed],
    settings: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No prompt, header or field that was not asked for is in record, span, metrics or logs."""
    observed = make_observed(**settings)
    messages = [{"role": "user", "content": f"my password is {SECRET}"}]
    observed.post(
        path="/v1/chat/completions",
        headers={
            "authorization": f"Bearer {SECRET}",
            "cookie": f"session={SECRET}",
            "x-tenant-id": SECRET,
            "x-gateway-priority": SECRET,
        },
        prompt=SECRET,
        messages=messages,
        user=SECRET,
        metadata={"session": SECRET},
        nvext={"agent_context": {"session_id": [SECRET], "trajectory_id": {"a": SECRET}}},
    )
    (record,) = observed.records()

    told = [
        observed.path.read_text("utf-8"),
        *(span.to_json() for span in observed.telemetry.spans),
        repr(observed.telemetry.metrics()),
        repr(observed.telemetry.histogram_sums()),
        caplog.text,
    ]
    assert [text for text in told if SECRET in text or hashed(SECRET) in text] == []
    assert labels(record) is None
