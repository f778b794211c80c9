"""The hooks of a request: before it is sent, while it is answered, when it is rejected."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hermes_router.datastore import Datastore, Endpoint
from hermes_router.endpoint import EndpointMetadata, NamespacedName
from hermes_router.model import InferenceRequest, InferenceResponse, SchedulingResult
from hermes_router.scheduler import Scheduler

PREFILL_HEADER = "x-prefill-host-port"
DECODE_HEADER = "x-decode-host-port"

_PASSED_ON = ("authorization", "traceparent", "tracestate")


@dataclass
class _Charge:
    """The load that one request adds to one endpoint."""

    endpoint: Endpoint
    tokens: int
    prefill_tokens: int = 0
    until_first_chunk: bool = False

    def take(self) -> None:
        self.endpoint.inflight_requests += 1
        self.endpoint.inflight_tokens += self.tokens
        self.endpoint.prefill_tokens += self.prefill_tokens

    def end_prefill(self) -> None:
        self.endpoint.prefill_tokens -= self.prefill_tokens
        self.prefill_tokens = 0

    def give_back(self) -> None:
        self.end_prefill()
        self.endpoint.inflight_requests -= 1
        self.endpoint.inflight_tokens -= self.tokens


class Director:
    """Sends requests to endpoints and counts what is in flight.

    All methods run on the event loop. `pre_request` is called for every attempt, `response_body`
    for every chunk and once more at the end of a request, and `reject` instead of them if there is
    no endpoint.
    """

    def __init__(self, datastore: Datastore, scheduler: Scheduler) -> None:
        self.rejected: dict[str, int] = {}
        self._datastore = datastore
        self._scheduler = scheduler
        self._charges: dict[InferenceRequest, list[_Charge]] = {}

    def schedule(
        self, request: InferenceRequest, excluded: Collection[NamespacedName]
    ) -> SchedulingResult | None:
        """Decide where an attempt goes; None if there is no endpoint for it."""
        return self._scheduler.schedule(request, excluded)

    def pre_request(self, request: InferenceRequest, scheduling_result: SchedulingResult) -> None:
        """Count the attempt, expect its prefix to be cached, and set its headers."""
        self._give_back(request)  # the load that the previous attempt added
        self._charge(request, scheduling_result)
        request.headers.clear()
        request.headers["content-type"] = "application/json"
        request.headers["x-request-id"] = request.request_id
        for name in _PASSED_ON:
            if name in request.inbound_headers:
                request.headers[name] = request.inbound_headers[name]
        route = scheduling_result.primary_route
        if route is not None:
            request.headers[PREFILL_HEADER] = route.prefill.host_port
            request.headers[DECODE_HEADER] = route.decode.host_port

    def response_body(
        self,
        request: InferenceRequest,
        response: InferenceResponse,
        target_endpoint: EndpointMetadata | None,
    ) -> None:
        """Release the load: a prefill's at the first chunk, everything at the end."""
        self._give_back(request, only_prefill=not response.end_of_stream)

    def reject(self, request: InferenceRequest, reason: str) -> None:
        """Count a rejected request."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def avoid(self, metadata: EndpointMetadata) -> None:
        """Avoid an unreachable endpoint for a short while."""
        endpoint = self._datastore.get(metadata.namespaced_name)
        if endpoint is not None:
            endpoint.avoid()

    def _charge(self, request: InferenceRequest, result: SchedulingResult) -> None:
        tokens, route = request.prompt_length, result.primary_route
        prefilling = _Charge(
            self._endpoint(route.prefill if route else result.target.metadata),
            tokens,
            until_first_chunk=route is not None,
        )
        endpoint = prefilling.endpoint
        prefilling.prefill_tokens = round(tokens * (1 - endpoint.match(request.prompt).score))
        endpoint.prefix_index.add(request.prompt.block_hashes(endpoint.block_size))
        charges = [prefilling]
        if route is not None:
            charges += [
                _Charge(self._endpoint(route.leader), 0),
                _Charge(self._endpoint(route.decode), tokens),
            ]
        for charge in charges:
            charge.take()
        self._charges[request] = charges

    def _endpoint(self, metadata: EndpointMetadata) -> Endpoint:
        # It has just left: a temporary endpoint takes the load and gives it back.
        return self._datastore.get(metadata.namespaced_name) or Endpoint(metadata)

    def _give_back(self, request: InferenceRequest, *, only_prefill: bool = False) -> None:
        kept: list[_Charge] = []
        for charge in self._charges.pop(request, ()):
            if only_prefill and not charge.until_first_chunk:
                charge.end_prefill()
                kept.append(charge)
            else:
                charge.give_back()
        if kept:
            self._charges[request] = kept
