"""Encoded requests through the SDK's exporter over HTTP."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from otel_lifecycle.telemetry.otlp.transport import current, refuse

_REFUSING_STATUS: Final = frozenset({400, 415, 422})

_GZIP = 31  # zlib's largest window, with the header of gzip
_FASTEST = 1  # of zlib's levels: a third of the CPU of the default, for a tenth more bytes


class EncodedBodies(requests.Session):
    """A session that sends the current request, compressed as the exporter's header says."""

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request, with our body if there is one; older exporters follow redirects."""
        encoded = current()
        pack = _PACKERS.get(str(request.headers.get("content-encoding", "identity")))
        if encoded is not None and pack is not None and request.method == "POST":
            request.body = pack(encoded.take())
            request.headers["Content-Length"] = str(len(request.body))
        return super().send(request, **kwargs)


def prepare(exporter: object) -> bool:
    """Have an exporter send encoded requests, too, and notice refusals.

    Returns:
        False, if it is a subclass or its session is somebody's own; nothing has changed then.

    Raises:
        AttributeError: It keeps its session elsewhere; nothing has changed.
    """
    if type(exporter) is not OTLPSpanExporter:
        return False
    session = _session(exporter)
    if type(session) not in (requests.Session, _Session):
        return False
    session.__class__ = _Session
    return True


class _Session(EncodedBodies):
    """Notices a refusal."""

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        response = super().send(request, **kwargs)
        if response.status_code in _REFUSING_STATUS:
            refuse()
        return response


def _session(exporter: Any) -> object:
    """The session of an exporter; newer ones have it within a client."""
    client = getattr(exporter, "_client", None)
    return exporter._session if client is None else client._transport._session


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(_FASTEST, zlib.DEFLATED, _GZIP)
    return packer.compress(body) + packer.flush()


def _deflate(body: bytes) -> bytes:
    return zlib.compress(body, _FASTEST)


_PACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": _gzip,
    "deflate": _deflate,
}
