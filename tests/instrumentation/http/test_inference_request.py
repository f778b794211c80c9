"""What is read of a client's request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from otel_lifecycle.instrumentation.http.inference_request import is_prefill


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"kv_transfer_params": {"do_remote_decode": True}}, True),
        ({"kv_transfer_params": {}, "max_tokens": 1}, True),
        ({"kv_transfer_params": {}, "max_completion_tokens": 1}, True),
        ({"max_tokens": 1}, False),
        ({"kv_transfer_params": {"do_remote_decode": False}, "max_tokens": 8}, False),
        ([1], False),
    ],
)
def test_is_prefill(body: Any, expected: bool) -> None:
    """A call for one token that keeps the KV cache for another engine is a prefill."""
    assert is_prefill(json.dumps(body).encode()) is expected
    assert not is_prefill(json.dumps(body).encode()[:-1])
