"""What is left to prefill on an endpoint, as the predictor gets it."""

from __future__ import annotations

import msgspec
import pytest

from otel_lifecycle import Outcome, RequestStart, Route
from tests.conftest import Bench
from tests.routes import bare

ROUTE = Route(bare("qwen-0"))
PAIR = Route(bare("leader-0"), bare("prefill-0"), bare("decode-0"))


def asked(number: int, route: Route = ROUTE, **changes: object) -> RequestStart:
    """A request of 1,000 tokens, 400 of them believed to be cached."""
    start = RequestStart(
        f"request-{number}", route, input_tokens=1_000, prefix_cache_score=0.4, streaming=True
    )
    return msgspec.structs.replace(start, **changes)


def left(bench: Bench) -> dict[str, list[int | None]]:
    """The tokens left to prefill, by request and endpoint."""
    return {
        record.request_id: [one.prefill_tokens for one in record.prediction_inputs]
        for record in bench.records
    }


def test_requests_before_their_first_output_are_ahead(bench: Bench) -> None:
    """Their uncached tokens count until then; all tokens of one without a known score."""
    first = bench.tracker.track(asked(1))
    second = bench.tracker.track(asked(2, prefix_cache_score=None))
    first.chunk()
    third = bench.tracker.track(asked(3))
    second.chunk()
    third.chunk()
    last = bench.tracker.track(asked(4))
    for tracked in (first, second, third, last):
        tracked.complete()

    assert left(bench) == {
        "request-1": [0],
        "request-2": [600],
        "request-3": [1_000],
        "request-4": [0],
    }


@pytest.mark.parametrize("end", ["complete", "disconnect", "fail"])
def test_a_request_that_ends_leaves_nothing(bench: Bench, end: str) -> None:
    """However it ends without a first output, its tokens are no longer ahead of others."""
    tracked = bench.tracker.track(asked(1))
    tracked.fail("timeout") if end == "fail" else getattr(tracked, end)()
    bench.tracker.track(asked(2)).complete()

    assert left(bench)["request-2"] == [0]


def test_of_a_pair_only_the_prefill_endpoint_has_one(bench: Bench) -> None:
    """A decode endpoint prefills nothing."""
    first = bench.tracker.track(asked(1, PAIR))
    second = bench.tracker.track(asked(2, PAIR))
    second.complete()
    first.complete()

    assert left(bench)["request-2"] == [600, 0]


def test_rerouting_takes_it_along(bench: Bench) -> None:
    """Before its first output a request is ahead where it was sent last, afterwards nowhere.

    The score of the new route was not given.
    """
    other = Route(bare("qwen-1"))
    moved = bench.tracker.track(asked(1))
    moved.reroute(other, reason="http_502")
    bench.tracker.track(asked(2)).complete()
    bench.tracker.track(asked(3, other)).complete()
    moved.chunk()
    moved.reroute(ROUTE, reason="http_502")
    bench.tracker.track(asked(4)).complete()
    moved.complete()

    found = left(bench)
    assert (found["request-2"], found["request-3"]) == ([0], [1_000])
    assert found["request-4"] == [0]
    assert {record.outcome for record in bench.records} == {Outcome.COMPLETED}
