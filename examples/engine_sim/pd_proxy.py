"""The leader of a prefill/decode pair: drives the prefill, then relays the decode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

PREFILL_HEADER = "x-prefill-host-port"
DECODE_HEADER = "x-decode-host-port"
KV_TRANSFERRED_HEADER = "x-kv-transferred"
CACHED_TOKENS_HEADER = "x-prefill-cached-tokens"
FAILED_HEADER = "x-failed-host-port"  # tells the router which of the two engines to avoid

_PASSED_ON = ("x-request-id", "traceparent", "tracestate")


class ProxyError(Exception):
    """Prefill or decode failed."""

    def __init__(self, status: int, message: str, host_port: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {} if host_port is None else {FAILED_HEADER: host_port}


class PDProxy:
    """Sends a request through the prefill and decode engines that the router chose.

    Real engines transfer the KV cache; here a header tells the decode engine to assume that it has
    arrived.
    """

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=2.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,
        )
        self.in_flight = 0

    async def aclose(self) -> None:
        """Close the connections to the engines."""
        await self._client.aclose()

    async def prefill(self, path: str, headers: Mapping[str, str], payload: dict[str, Any]) -> int:
        """Prefill the prompt; return how many of its tokens were cached."""
        content = json.dumps({**payload, "max_tokens": 1, "stream": False, "stream_options": None})
        response = await self._send(PREFILL_HEADER, path, headers, content.encode(), {})
        body = await response.aread()
        await response.aclose()
        return int(json.loads(body)["usage"]["prompt_tokens_details"]["cached_tokens"])

    async def decode(
        self, path: str, headers: Mapping[str, str], body: bytes, cached_tokens: int
    ) -> httpx.Response:
        """Start the decode; the caller reads the response and closes it."""
        extra = {KV_TRANSFERRED_HEADER: "1", CACHED_TOKENS_HEADER: str(cached_tokens)}
        return await self._send(DECODE_HEADER, path, headers, body, extra)

    async def _send(
        self,
        engine_header: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes,
        extra_headers: Mapping[str, str],
    ) -> httpx.Response:
        host_port = headers.get(engine_header)
        if host_port is None:
            raise ProxyError(400, f"header {engine_header} is missing")
        passed_on = {name: headers[name] for name in _PASSED_ON if name in headers}
        request = self._client.build_request(
            "POST",
            f"http://{host_port}{path}",
            content=content,
            headers={"content-type": "application/json", **passed_on, **extra_headers},
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            message = f"{host_port}: {type(error).__name__}"
            raise ProxyError(502, message, host_port) from error
        if response.status_code >= 400:
            await response.aclose()
            message = f"{host_port}: HTTP {response.status_code}"
            raise ProxyError(response.status_code, message, host_port)
        return response
