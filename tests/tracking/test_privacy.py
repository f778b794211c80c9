"""Prompts and headers through the handle and the hooks: nothing unless asked, and then hashes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from hashlib import blake2b, sha256
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from otel_lifecycle import Candidate, LifecycleRecord, RequestStart, Route, RouteEndpoint
from otel_lifecycle.config import PromptConfig
from tests.conftest import Bench
from tests.hooks import shapes

SECRET = "zebra-4711"
PROMPT = f"my password is {SECRET}. " * 40
TOKEN = 987_654_321
TOKENS = [TOKEN] * 512
HEADERS = {"authorization": f"Bearer {SECRET}", "cookie": SECRET, "x-tenant-id": SECRET}
Door = Callable[[Bench], None]


def asked(key: str) -> dict[str, Any]:
    """Settings that ask for all that may be asked for."""
    return {
        "labels": "tenant=x-tenant-id,user=body:user",
        "labels_key": key,
        "prompt": PromptConfig(blocks=16, key=key),
    }


def by_handle(bench: Bench) -> None:
    """Two requests, one of which fails with the prompt in its error."""
    chosen, other = shapes.identity("qwen-0"), shapes.identity("qwen-1")
    odd: Any = PROMPT
    start = RequestStart(
        "request-1",
        Route(RouteEndpoint(chosen)),
        "m",
        prompt=PROMPT,
        candidates=[
            Candidate(chosen, 1.0, {"prefix": 1.0}),
            Candidate(other, odd, {"prefix": odd}, prefix_cache_score=odd, prediction=odd),
        ],
    )
    bench.tracker.track(start, HEADERS).complete(output_tokens=2)
    again = msgspec.structs.replace(start, request_id="request-2")
    bench.tracker.track(again, HEADERS).fail(ValueError(PROMPT))


def by_hooks(bench: Bench) -> None:
    """The same from a scheduler's objects."""
    for request_id, error in (("request-1", None), ("request-2", ValueError(PROMPT))):
        request: Any = shapes.Request(request_id)
        request.headers = HEADERS
        request.tokenized_prompt = SimpleNamespace(token_ids=TOKENS)
        payload = {"prompt": PROMPT, "messages": [{"content": PROMPT}], "user": SECRET}
        request.body = SimpleNamespace(stream=True, payload=payload, prompt=PROMPT)
        targets: tuple[Any, Any] = shapes.endpoint("qwen-0"), shapes.endpoint("qwen-1")
        chosen, other = targets
        chosen.score, chosen.scores = 1.0, {"prefix": 1.0}
        other.score, other.scores = PROMPT, {"prefix": PROMPT}
        bench.tracker.pre_request(request, shapes.result(chosen, other))
        bench.tracker.response_body(request, shapes.last(error=error, usage=shapes.usage()))


DOORS = pytest.mark.parametrize("serve", [by_handle, by_hooks])


def told(bench: Bench, log: pytest.LogCaptureFixture) -> list[str]:
    """All that leaves the router."""
    assert len(bench.records) == 2
    return [
        bench.path.read_text("utf-8"),
        *(span.to_json() for span in bench.telemetry.spans),
        repr(bench.telemetry.metrics()),
        repr(bench.telemetry.histogram_sums()),
        repr(bench.tracker.store.ignored),
        log.text,
    ]


def hashes(record: LifecycleRecord) -> set[object]:
    """The hashes in a record, of labels and of prompt blocks."""
    found: set[object] = set()
    if record.labels is not msgspec.UNSET:
        found.update(record.labels.values())
    if record.prompt_blocks is not msgspec.UNSET:
        found.update(record.prompt_blocks.hashes)
    return found


@DOORS
def test_nothing_unless_asked(
    make_bench: Callable[..., Bench], serve: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """Without settings there is no header, no prompt, no hash and no label."""
    caplog.set_level(logging.DEBUG)
    bench = make_bench()
    serve(bench)

    texts = told(bench, caplog)
    assert [text for text in texts if SECRET in text or str(TOKEN) in text] == []
    assert [hashes(record) for record in bench.records] == [set(), set()]


@DOORS
def test_hashes_alone(
    make_bench: Callable[..., Bench], serve: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """What is asked for is hashed with the key; who has no key cannot try texts."""
    caplog.set_level(logging.DEBUG)
    bench, other = (
        make_bench(**asked("a key of ours 1234")),
        make_bench(**asked("another key 1234")),
    )
    serve(bench)
    serve(other)

    texts = [*told(bench, caplog), *told(other, caplog)]
    assert [text for text in texts if SECRET in text or str(TOKEN) in text] == []
    ours, theirs = (hashes(each.records[0]) for each in (bench, other))
    assert min(len(ours), len(theirs)) > 10
    assert ours.isdisjoint(theirs)
    plain = {digest(SECRET.encode()).hexdigest() for digest in (sha256, blake2b)}
    assert not [one for one in ours if any(str(one) in each for each in plain)]


@DOORS
def test_scores_are_numbers(make_bench: Callable[..., Bench], serve: Door) -> None:
    """A text in the place of a score is none, and counted."""
    bench = make_bench()
    serve(bench)

    decision = msgspec.to_builtins(bench.records[0])["decision"]
    (pick,) = decision["picks"]
    assert [one.get("score") for one in pick["candidates"]] == [1.0, None]
    assert [one.get("scores") for one in pick["candidates"]] == [{"prefix": 1.0}, None]
    assert bench.tracker.store.ignored["invalid_value"] > 0
