"""Fixtures: a cluster on real sockets, and a log of its director's calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hermes_router.director import Director
from hermes_router.endpoint import EndpointMetadata
from hermes_router.model import InferenceRequest, InferenceResponse, SchedulingResult

from tests.examples.cluster import Attempt, Calls, Cluster, End


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Log the calls; at the end each dispatched request must have ended exactly once."""
    calls = Calls()
    pre_request, response_body = Director.pre_request, Director.response_body
    reject = Director.reject

    def record_pre_request(
        self: Director, request: InferenceRequest, scheduling_result: SchedulingResult
    ) -> None:
        pre_request(self, request, scheduling_result)
        target = scheduling_result.target.metadata.namespaced_name.name
        calls.attempts.append(Attempt(request.attempt, request.retry_reason, target))
        calls.headers.append(dict(request.headers))
        calls.results.append(scheduling_result)
        calls.dispatched.add(request.request_id)

    def record_response_body(
        self: Director,
        request: InferenceRequest,
        response: InferenceResponse,
        target_endpoint: EndpointMetadata | None,
    ) -> None:
        response_body(self, request, response, target_endpoint)
        if not response.end_of_stream:
            calls.chunks += 1
            return
        name = None if target_endpoint is None else target_endpoint.namespaced_name.name
        end = End(response.termination_cause, response.error, name, response.usage)
        calls.ended[request.request_id] += 1
        calls.ends.append(end)

    def record_reject(self: Director, request: InferenceRequest, reason: str) -> None:
        reject(self, request, reason)
        calls.rejections.append(reason)

    monkeypatch.setattr(Director, "pre_request", record_pre_request)
    monkeypatch.setattr(Director, "response_body", record_response_body)
    monkeypatch.setattr(Director, "reject", record_reject)
    yield calls
    assert dict.fromkeys(calls.dispatched, 1) == dict(calls.ended)


@pytest.fixture
def cluster(calls: Calls) -> Iterator[Cluster]:
    """An empty cluster whose calls are logged."""
    cluster = Cluster()
    yield cluster
    cluster.stop()
