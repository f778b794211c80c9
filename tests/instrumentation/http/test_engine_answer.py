"""The engine's own answer, read before the router rebuilds it."""

from __future__ import annotations

import gzip
import json

import httpx

from otel_lifecycle import Endpoint, RouteEndpoint
from otel_lifecycle.instrumentation.http.attempt import Attempt
from otel_lifecycle.instrumentation.http.engine_answer import read_httpx
from otel_lifecycle.runtime.clock import SystemClock
from tests.instrumentation.http.dialects import WHOLE


def test_unpacked_by_the_client() -> None:
    """An answer decompressed by the client library is read, whatever its headers say."""
    answer = WHOLE[0]
    packed = gzip.compress(answer.body)
    headers = {"content-encoding": "gzip", "content-length": str(len(packed))}
    response = httpx.Response(200, headers=headers, content=packed)
    attempt = Attempt("decode", RouteEndpoint(Endpoint()), SystemClock.monotonic_ns)
    read_httpx(attempt, response)

    assert attempt.answer is not None
    attempt.answer.finish()
    assert json.loads(response.content) == json.loads(answer.body)
    assert (attempt.answer.is_truncated, attempt.answer.output_tokens) == (False, 3)
