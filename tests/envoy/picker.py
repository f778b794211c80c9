"""A small endpoint picker, which does what the request's headers ask for.

It speaks external processing as llm-d's picker does: it reads the whole body before it chooses,
and says the choice in a header and in metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc

from tests.envoy.protocol import SERVICE, ProcessingRequest, ProcessingResponse
from tests.grpc_service import GrpcService

DESTINATION = "x-gateway-destination-endpoint"
PREFILL = "x-prefiller-host-port"
REASON = "x-llm-d-request-dropped-reason"
ASK_ENDPOINT, ASK_PREFILL, ASK_REFUSAL = "x-test-endpoint", "x-test-prefill", "x-test-refusal"


class Picker(GrpcService):
    """Serves until it is closed.

    Args:
        by_header: Whether it says its choice in a header; else only in metadata.
        reports: Whether it reports the usage, as the picker's reporter does.
    """

    def __init__(self, *, by_header: bool = True, reports: bool = False) -> None:
        super().__init__(threads=256)
        self.traceparents: dict[str, str] = {}  # that it was given, by request
        self._by_header = by_header
        self._reports = reports
        handler = grpc.stream_stream_rpc_method_handler(
            self._process,
            request_deserializer=ProcessingRequest.FromString,
            response_serializer=ProcessingResponse.SerializeToString,
        )
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Process": handler}),)
        )

    def _process(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        headers: dict[str, str] = {}
        body, answer = b"", b""
        for request in requests:
            if request.HasField("request_headers"):
                headers = _headers(request.request_headers.headers)
                if request.request_headers.end_of_stream:
                    yield self._choose(headers, b"{}")
            elif request.HasField("request_body"):
                body += request.request_body.body
                if request.request_body.end_of_stream:
                    yield from self._answer_request(headers, body)
            elif request.HasField("request_trailers"):
                yield from self._answer_request(headers, body)
                yield ProcessingResponse(request_trailers={})
            elif request.HasField("response_headers"):
                yield ProcessingResponse(response_headers={})
            elif request.HasField("response_body"):
                part = request.response_body
                answer = (answer + part.body)[-4096:]
                streamed = {"body": part.body, "end_of_stream": part.end_of_stream}
                response = ProcessingResponse(
                    response_body={"response": {"body_mutation": {"streamed_response": streamed}}}
                )
                if part.end_of_stream and self._reports:
                    response.dynamic_metadata.update({"llm": _usage(answer)})
                yield response
            elif request.HasField("response_trailers"):
                yield ProcessingResponse(response_trailers={})

    def _answer_request(self, headers: dict[str, str], body: bytes) -> Iterator[Any]:
        response = self._choose(headers, body)
        yield response
        if not response.HasField("immediate_response"):
            streamed = {"body": body, "end_of_stream": True}
            yield ProcessingResponse(
                request_body={"response": {"body_mutation": {"streamed_response": streamed}}}
            )

    def _choose(self, headers: dict[str, str], body: bytes) -> Any:
        self.traceparents[headers["x-request-id"]] = headers.get("traceparent", "")
        if ASK_REFUSAL in headers:
            return _refuse(int(headers[ASK_REFUSAL]), "saturated")
        if headers.get("content-type") == "application/grpc":
            body = body[5:]  # after the length of the message
        try:
            json.loads(body)
        except ValueError:
            return _refuse(400, "")
        endpoint = headers[ASK_ENDPOINT]
        chosen = {DESTINATION: endpoint} if self._by_header else {}
        if ASK_PREFILL in headers:
            chosen[PREFILL] = headers[ASK_PREFILL]
        response = ProcessingResponse(
            request_headers={
                "response": {"header_mutation": _mutation(chosen), "clear_route_cache": True}
            }
        )
        scores = {endpoint.partition(",")[0]: 1.5, "10.255.255.1:8000": 0.25}
        metadata = {DESTINATION: endpoint, f"{DESTINATION}-scores": scores}
        response.dynamic_metadata.update({"envoy.lb": metadata})
        return response


def _headers(message: Any) -> dict[str, str]:
    return {each.key: (each.raw_value or each.value.encode()).decode() for each in message.headers}


def _mutation(headers: dict[str, str]) -> dict[str, Any]:
    return {
        "set_headers": [
            {"header": {"key": key, "raw_value": value.encode()}, "append_action": 2}
            for key, value in headers.items()
        ]
    }


def _refuse(code: int, reason: str) -> Any:
    headers = _mutation({REASON: reason}) if reason else {}
    return ProcessingResponse(
        immediate_response={"status": {"code": code}, "headers": headers, "body": b"refused"}
    )


def _usage(answer: bytes) -> dict[str, Any]:
    """The usage at the end of an answer."""
    start = answer.rfind(b'"usage"')
    if start < 0:
        return {}
    usage, _ = json.JSONDecoder().raw_decode(answer[answer.index(b"{", start) :].decode())
    details = usage.get("prompt_tokens_details") or {}
    return {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "cached_tokens": details.get("cached_tokens", 0),
    }
