"""What a client asks a router for, as far as it has come in."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from otel_lifecycle.instrumentation.http.requests.inference_request import (
    InferenceRequest,
    RequestReader,
)
from otel_lifecycle.instrumentation.routing import Routing
from otel_lifecycle.model import InputTokenSource, RequestStart, Route
from otel_lifecycle.model.request import NO_LABELS
from otel_lifecycle.runtime.forks import repair_in_forked_child
from otel_lifecycle.tracking.asked.asked import Asked
from otel_lifecycle.tracking.store import LifecycleStore

# Of our own, as a router may seed the common one; each process has others.
_random = Random()
repair_in_forked_child(_random, Random.seed)


class InboundRequest:
    """One request of a client; not thread-safe.

    Args:
        operation: What it asks for.
        headers: Those that are read, in lower case.
        path: Where it came to.
        request: What its body says, where that is known already.
        asked: What else is recorded of it.

    Attributes:
        headers: As given.
        operation: As given.
        path: As given.
        is_whole: Whether all of its body is here.
        sent_id: The id that the router has sent on to an engine; empty when it did not.
    """

    __slots__ = ("_asked", "_body", "headers", "is_whole", "operation", "path", "sent_id")

    def __init__(
        self,
        operation: str,
        headers: Mapping[str, str],
        path: str,
        request: InferenceRequest | None,
        asked: Asked,
    ) -> None:
        self.operation = operation
        self.headers = headers
        self.path = path
        self.is_whole = request is not None
        self.sent_id = ""
        self._asked = asked
        self._body = RequestReader(request, asked.body)

    def feed(self, body: bytes, *, more: bool) -> None:
        """Take the next bytes of the body."""
        self._body.feed(body)
        self.is_whole = not more

    def say(self, body: Mapping[str, Any]) -> None:
        """Take the fields of a body that no bytes were read of."""
        self._body.fields = self._asked.fields_in(body)

    def read(self) -> InferenceRequest:
        """Return what the body says so far."""
        return self._body.read(whole=self.is_whole)

    def start(
        self,
        route: Route | None,
        routing: Routing,
        store: LifecycleStore,
        *,
        takes_prompts: bool = False,
    ) -> RequestStart:
        """Return what a tracker has to know.

        Args:
            route: Where it goes; None when that is not known.
            routing: What the router tells.
            store: The requests in flight.
            takes_prompts: Whether the prompt is to be told.
        """
        request = self.read()
        tokens, source = request.input_tokens, request.input_token_source
        if routing.input_tokens is not None:
            tokens, source = routing.input_tokens, InputTokenSource.TOKENIZED.value
        return RequestStart(
            request_id=self._id(routing, store),
            route=route,
            model=request.model,
            input_tokens=tokens,
            input_token_source=source,
            streaming=request.streaming,
            prefix_cache_score=routing.prefix_cache_score,
            candidates=routing.candidates,
            policy=routing.policy,
            decision_reason=routing.decision_reason,
            engine_request_id=self.sent_id or None,
            operation=self.operation,
            labels=self._labels() if self._asked.body is not None else NO_LABELS,
            prompt=request.take_prompt(wanted=takes_prompts),
        )

    def _labels(self) -> Mapping[str, Any]:
        """Return the labels, of which the tracker itself could read only those in headers."""
        return self._asked.labels_in(self.headers, self._body.fields)

    def _id(self, routing: Routing, store: LifecycleStore) -> str:
        """Return the client's id, else the one the router sent on or gave it.

        Unless another request with it is in flight: clients do repeat them.
        """
        request_id = self.headers.get("x-request-id", "") or self.sent_id or routing.request_id
        if request_id and store.find(request_id) is None:
            return request_id
        suffix = f"{_random.getrandbits(128):032x}"
        return f"{request_id}-{suffix}" if request_id else suffix
