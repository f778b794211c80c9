"""Sends a request to the chosen endpoints, and the answer back to the client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from hermes_router.answer import Answer, answer_of
from hermes_router.director import Director
from hermes_router.disconnect import run_until_disconnect
from hermes_router.endpoint import EndpointMetadata, NamespacedName
from hermes_router.errors import error_response
from hermes_router.model import InferenceRequest, InferenceResponse, SchedulingResult

BAD_GATEWAY = 502
CONNECT_TIMEOUT_SECONDS = 2.0
FAILED_HEADER = "x-failed-host-port"  # a leader names the engine of the pair that failed

# They belong to one connection (RFC 9110, 7.6.1), or are set by our own server.
_NOT_PASSED_ON = {b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server"}


class AttemptError(Exception):
    """The attempt failed before any answer, so another endpoint may try."""

    def __init__(self, reason: str, at_fault: EndpointMetadata, *, unreachable: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.at_fault = at_fault
        self.unreachable = unreachable


class Proxy:
    """Shares the connections to the engines between requests."""

    def __init__(self, director: Director, max_attempts: int) -> None:
        self.director = director
        self.max_attempts = max_attempts
        self.client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
            headers={"accept-encoding": "identity"},  # chunks are read on their way through
            trust_env=False,
        )

    def response(self, request: InferenceRequest) -> ProxiedResponse:
        """Return the ASGI response that routes a request and relays its answer."""
        return ProxiedResponse(self, request)


class ProxiedResponse:
    """One request: its attempts, the relayed answer, and exactly one end."""

    def __init__(self, proxy: Proxy, request: InferenceRequest) -> None:
        self._proxy = proxy
        self._director = proxy.director
        self._request = request
        self._response = InferenceResponse()
        self._answer: Answer | None = None
        self._served_by: EndpointMetadata | None = None
        self._dispatched = False
        self._client_gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the client until it has its answer, or has left."""

        async def work() -> None:
            try:
                refusal = await self._attempt(send)
                if refusal is not None:
                    await refusal(scope, receive, send)
            except BaseException as error:  # cancellation ends the request too
                self._end(error)
                raise

        await run_until_disconnect(receive, work, self._note_disconnect)

    async def _attempt(self, send: Send) -> ASGIApp | None:
        """Try endpoint after endpoint; return the error for the client if none has answered."""
        request = self._request
        failure: AttemptError | None = None
        excluded: set[NamespacedName] = set()
        for attempt in range(1, self._proxy.max_attempts + 1):
            result = self._director.schedule(request, excluded)
            if result is None:
                break
            request.attempt = attempt
            self._director.pre_request(request, result)
            self._dispatched = True
            try:
                await self._forward(result, send)
                return None
            except AttemptError as error:
                failure = error
                request.retry_reason = error.reason
                excluded.add(error.at_fault.namespaced_name)
                if error.unreachable:
                    self._director.avoid(error.at_fault)
        if failure is None:
            self._director.reject(request, "no_endpoint")
            return error_response(503, "no endpoint is available")
        self._end(failure.__cause__ or failure.reason)
        return error_response(502, f"no endpoint answered; the last failure: {failure.reason}")

    async def _forward(self, result: SchedulingResult, send: Send) -> None:
        target = result.target.metadata
        upstream_request = self._proxy.client.build_request(
            "POST",
            f"http://{target.host_port}{self._request.body.path}",
            content=self._request.body.content,
            headers=httpx.Headers(self._request.headers, encoding="latin-1"),
        )
        try:
            upstream = await self._proxy.client.send(upstream_request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise AttemptError("connect_error", target, unreachable=True) from error
        except httpx.TransportError as error:
            raise AttemptError("connection_lost", target, unreachable=False) from error
        async with aclosing(upstream):
            if upstream.status_code >= 500:
                raise _server_error(upstream, result)
            chunks = upstream.aiter_raw()
            try:
                first = await anext(chunks, None)
            except httpx.TransportError as error:
                raise AttemptError("connection_lost", target, unreachable=False) from error
            self._served_by = target
            await self._relay(upstream, first, chunks, send)

    async def _relay(
        self, upstream: httpx.Response, chunk: bytes | None, rest: AsyncIterator[bytes], send: Send
    ) -> None:
        """Pass on the answer unchanged, no faster than the client reads it."""
        response = self._response
        answer = answer_of(upstream.headers.get("content-type", ""))
        if upstream.is_success:  # an error is passed on too, but does not complete the request
            self._answer = answer
        await send(_response_start(upstream))
        try:
            while chunk is not None:
                answer.feed(chunk)
                response.usage = answer.usage
                self._director.response_body(self._request, response, self._served_by)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                chunk = await anext(rest, None)
        except httpx.TransportError as error:
            self._end(error)
            return  # the response stays incomplete, so the server cuts the client's connection
        answer.end()
        self._end("stream_truncated" if upstream.is_success else f"http_{upstream.status_code}")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _end(self, error: BaseException | str) -> None:
        """Make the last `response_body` call; `error` counts unless the answer is complete."""
        response = self._response
        if not self._dispatched or response.end_of_stream:
            return
        response.end_of_stream = True
        if self._answer is not None:
            response.usage = self._answer.usage
        if self._answer is not None and self._answer.complete:
            response.termination_cause = "natural"
        elif self._client_gone:
            response.termination_cause = "client-disconnect"
        else:
            response.termination_cause, response.error = "error", error
        self._director.response_body(self._request, response, self._served_by)

    def _note_disconnect(self) -> None:
        self._client_gone = True


def _server_error(upstream: httpx.Response, result: SchedulingResult) -> AttemptError:
    reason, route = f"http_{upstream.status_code}", result.primary_route
    failed = upstream.headers.get(FAILED_HEADER)
    for engine in () if route is None else (route.prefill, route.decode):
        if engine.host_port == failed:
            # A leader answers 502 if it could not reach the engine.
            unreachable = upstream.status_code == BAD_GATEWAY
            return AttemptError(reason, engine, unreachable=unreachable)
    return AttemptError(reason, result.target.metadata, unreachable=False)


def _response_start(upstream: httpx.Response) -> dict[str, object]:
    headers = [
        (name.lower(), value)
        for name, value in upstream.headers.raw
        if name.lower() not in _NOT_PASSED_ON
    ]
    return {"type": "http.response.start", "status": upstream.status_code, "headers": headers}
