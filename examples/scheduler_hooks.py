"""Tracks requests through the hooks of the Go plugin, on a scheduler's own objects.

Run it with `python examples/scheduler_hooks.py`. Any objects of this shape work; see
`otel_lifecycle.tracking.protocols`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from otel_lifecycle import RequestLifecycleTracker


@dataclass
class Metadata:
    """The identity of an endpoint."""

    pod_name: str
    address: str = "10.0.0.7"
    port: str = "8000"


@dataclass
class ScheduledEndpoint:
    """An endpoint with the attributes that scorers added."""

    metadata: Metadata
    attributes: Mapping[str, object] = field(default_factory=dict[str, object])
    metrics: object | None = None

    def get(self, key: str) -> object | None:
        """Return the attribute under a key."""
        return self.attributes.get(key)


@dataclass
class Prediction:
    """A latency prediction, in milliseconds."""

    ttft: float | None = None
    tpot: float | None = None


@dataclass
class SelectedPod:
    """One half of a prefill/decode pair."""

    endpoint: ScheduledEndpoint


@dataclass
class PDGroup:
    """The pair of a leader."""

    selected_prefill_pod: SelectedPod
    selected_decode_pod: SelectedPod


@dataclass
class TokenizedPrompt:
    """The prompt as the engine will see it."""

    token_ids: Sequence[int]


@dataclass
class Request:
    """A request on its way through the router."""

    request_id: str
    target_model: str
    tokenized_prompt: TokenizedPrompt


@dataclass
class ProfileRunResult:
    """The picks of one profile, best first."""

    target_endpoints: Sequence[ScheduledEndpoint]


@dataclass
class SchedulingResult:
    """The scheduler's decision."""

    primary_profile_name: str
    profile_results: Mapping[str, ProfileRunResult]


@dataclass
class Usage:
    """The engine's token counts."""

    completion_tokens: int


@dataclass
class Response:
    """A chunk of the response; the last one says how the request ended.

    The hooks do not see failures: a last chunk without cause and error counts as completed.
    """

    end_of_stream: bool
    usage: Usage | None = None
    termination_cause: str | None = None  # natural, client-disconnect, evicted, error
    error: BaseException | None = None


def stream(
    tracker: RequestLifecycleTracker,
    request: Request,
    chunks: Iterable[Response],
    served_by: Metadata,
) -> None:
    """Pass on chunks; in any case, report the end and its cause to the hook."""
    last = Response(end_of_stream=True, termination_cause="error")
    try:
        for chunk in chunks:
            if chunk.end_of_stream:
                last = chunk
            else:
                tracker.response_body(request, chunk, served_by)
    except ConnectionResetError:  # the client's connection
        last = Response(end_of_stream=True, termination_cause="client-disconnect")
        raise
    except Exception as error:
        last = Response(end_of_stream=True, error=error)
        raise
    finally:
        tracker.response_body(request, last, served_by)


def main() -> None:
    """Serve one PD-disaggregated request, from scheduling to the end of its stream."""
    tracker = RequestLifecycleTracker.from_json('{"storeName": "example"}')
    key = "LatencyPredictionInfoKey"
    prefill = ScheduledEndpoint(Metadata("prefill-0"), {key: Prediction(ttft=210.0)})
    decode = ScheduledEndpoint(Metadata("decode-0"), {key: Prediction(tpot=18.5)})
    group = PDGroup(SelectedPod(prefill), SelectedPod(decode))
    leader = ScheduledEndpoint(Metadata("leader-0"), {"PDGroupInfoKey": group})
    request = Request("request-1", "Qwen/Qwen3-8B", TokenizedPrompt(range(512)))
    result = SchedulingResult("default", {"default": ProfileRunResult([leader])})

    tracker.pre_request(request, result)
    print("dispatched", tracker.store.loads())

    def chunks() -> Iterator[Response]:
        yield Response(end_of_stream=False)
        print("first chunk", tracker.store.loads())
        yield Response(end_of_stream=True, usage=Usage(128), termination_cause="natural")

    stream(tracker, request, chunks(), leader.metadata)
    print("completed", tracker.store.loads())
    tracker.close()


if __name__ == "__main__":
    main()
