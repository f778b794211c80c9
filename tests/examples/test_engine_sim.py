"""The simulated engine: its KV cache and its API."""

from __future__ import annotations

import pytest
from engine_sim.kv_cache import KVCache

from tests.examples.cluster import HTTP, Cluster

A, B, C = b"a", b"b", b"c"


def test_a_computed_prefix_is_reused() -> None:
    """Computed blocks stay for the next request with the same prefix."""
    cache = KVCache(capacity=4)
    first = cache.pin([A, B], private_blocks=1)
    assert cache.filled_prefix(first) == 0
    cache.fill(first)
    cache.unpin(first)
    assert cache.usage == 0
    assert cache.filled_prefix(cache.pin([A, B, C], private_blocks=0)) == 2


def test_blocks_nobody_computed_are_not_kept() -> None:
    """A request aborted before its prefill leaves no blocks."""
    cache = KVCache(capacity=4)
    cache.unpin(cache.pin([A], private_blocks=0))
    assert cache.filled_prefix(cache.pin([A], private_blocks=0)) == 0


def test_the_end_of_a_prefix_is_evicted_first() -> None:
    """When memory is short, the shared start of prompts is kept longest."""
    cache = KVCache(capacity=3)
    first = cache.pin([A, B], private_blocks=0)
    cache.fill(first)
    cache.unpin(first)
    other = cache.pin([C], private_blocks=1)
    cache.unpin(other)
    assert cache.filled_prefix(cache.pin([A, B], private_blocks=0)) == 1


def test_shared_blocks_count_once() -> None:
    """Two running requests with one prefix fit where two different ones do not."""
    cache = KVCache(capacity=3)
    cache.pin([A, B], private_blocks=0)
    assert cache.fits([A, B], private_blocks=1)
    assert not cache.fits([C], private_blocks=1)


@pytest.mark.parametrize(
    "fields", [{"stream_options": 3}, {"max_tokens": 0}, {"max_tokens": True}, {"prompt": [1.5]}]
)
def test_bad_input_is_refused(cluster: Cluster, fields: dict[str, object]) -> None:
    """An invalid request gets a 400, never a 500 that a router would retry."""
    engine = cluster.add_engine("engine")
    response = HTTP.post(f"{engine.url}/v1/completions", json={"prompt": "hi", **fields})
    assert response.status_code == 400


def test_a_request_id_may_contain_anything(cluster: Cluster) -> None:
    """The id of the request is in the events unchanged."""
    engine = cluster.add_engine("engine")
    response = HTTP.post(
        f"{engine.url}/v1/completions",
        json={"prompt": "hi", "max_tokens": 2, "stream": True},
        headers={"x-request-id": "me@home"},
    )
    assert response.text.count('"id": "cmpl-me@home"') == 2
