"""Tracks requests through the hooks of the Go plugin, on a scheduler's own objects.

Run it with `python examples/scheduler_hooks.py`. Any objects of that shape will do; see
`otel_lifecycle.protocols`.
"""

from __future__ import annotations

from types import SimpleNamespace

from otel_lifecycle import RequestLifecycleTracker


def endpoint(name: str, attributes: dict[str, object]) -> SimpleNamespace:
    """A scheduler's endpoint, with the attributes that scorers left on it."""
    return SimpleNamespace(
        metadata=SimpleNamespace(
            namespaced_name=SimpleNamespace(namespace="llm", name=name),
            pod_name=name,
            address="10.0.0.7",
            port="8000",
        ),
        metrics=SimpleNamespace(running_requests_size=3, waiting_queue_size=0),
        get=attributes.get,
    )


def main() -> None:
    """One PD-disaggregated request, from scheduling to the end of its stream."""
    tracker = RequestLifecycleTracker.from_json('{"storeName": "example"}')
    prefill = endpoint("prefill-0", {"LatencyPredictionInfoKey": SimpleNamespace(ttft=210.0)})
    decode = endpoint("decode-0", {"LatencyPredictionInfoKey": SimpleNamespace(tpot=18.5)})
    group = SimpleNamespace(
        selected_prefill_pod=SimpleNamespace(endpoint=prefill),
        selected_decode_pod=SimpleNamespace(endpoint=decode),
    )
    leader = endpoint("leader-0", {"PDGroupInfoKey": group})
    request = SimpleNamespace(
        request_id="request-1",
        target_model="Qwen/Qwen3-8B",
        tokenized_prompt=SimpleNamespace(token_ids=list(range(512))),
        body=SimpleNamespace(stream=True),
    )
    result = SimpleNamespace(
        primary_profile_name="default",
        profile_results={"default": SimpleNamespace(target_endpoints=[leader])},
    )
    usage = SimpleNamespace(completion_tokens=128)

    tracker.pre_request(request, result)
    print("dispatched", tracker.store.loads())
    tracker.response_body(request, SimpleNamespace(end_of_stream=False), leader.metadata)
    print("first chunk", tracker.store.loads())
    tracker.response_body(
        request, SimpleNamespace(end_of_stream=True, usage=usage), leader.metadata
    )
    print("completed", tracker.store.loads())
    tracker.close()


if __name__ == "__main__":
    main()
