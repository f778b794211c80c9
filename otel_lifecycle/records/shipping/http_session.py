"""Bounded HTTP requests: one deadline for the whole request, one limit for its answer.

The time-out of `requests` restarts with each byte received, and `requests` decompresses an answer
to any size.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any, TypeAlias

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LONGEST_ANSWER = 64 << 10  # bytes; a collector's answer has a few hundred

_GZIP_OR_ZLIB = 47  # zlib's largest window, with either header
_Remaining: TypeAlias = Callable[[], float]


class BoundedSession(requests.Session):
    """A session whose requests and answers are bounded. Not thread-safe.

    It follows no redirects: they would send the headers, and secrets in them, elsewhere.

    Args:
        remaining: Returns the seconds left for the request; raises TimeoutError if there are none.
    """

    def __init__(self, remaining: _Remaining) -> None:
        super().__init__()
        self._remaining = remaining
        self.headers["Accept-Encoding"] = "identity"
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(remaining))

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request and read at most `LONGEST_ANSWER` bytes of its answer."""
        settings = {"stream": True, "timeout": self._remaining()}
        response = super().send(request, **{**kwargs, **settings})
        with response:
            body = response.raw.read(LONGEST_ANSWER + 1, decode_content=False)
        content = _unpacked(body[:LONGEST_ANSWER], response)
        vars(response).update(_content=content, _content_consumed=True)
        return response

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Follow no redirect, and do not read its answer."""


def _unpacked(body: bytes, response: requests.Response) -> bytes:
    encoding = response.headers.get("content-encoding", "identity")
    if encoding == "identity":
        return body
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, LONGEST_ANSWER)
    except zlib.error:
        return b""  # an encoding that was not requested


class _Adapter(HTTPAdapter):
    def __init__(self, remaining: _Remaining) -> None:
        class Pool(HTTPConnectionPool):
            ConnectionCls = _timed(HTTPConnection, remaining)

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = _timed(HTTPSConnection, remaining)

        self._pools: dict[str, Any] = {"http": Pool, "https": SecurePool}
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **settings: Any) -> None:
        super().init_poolmanager(*arguments, **settings)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *arguments: Any, **settings: Any) -> Any:
        manager = super().proxy_manager_for(*arguments, **settings)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _timed(base: type[HTTPConnection], remaining: _Remaining) -> Any:
    """Make a connection class that limits each step to the time left."""

    class Response(HTTPResponse):
        def __init__(self, sock: Any, *arguments: Any, **settings: Any) -> None:
            super().__init__(sock, *arguments, **settings)
            self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, remaining))

    class Connection(base):
        response_class = Response

        def connect(self) -> None:
            self.timeout = remaining()
            super().connect()

        def send(self, data: Any) -> None:
            if self.sock is not None:
                self.sock.settimeout(remaining())
            super().send(data)

    return Connection


class _TimedReader(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: Any, remaining: _Remaining) -> None:
        self._raw = raw
        self._sock = sock
        self._remaining = remaining

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        self._sock.settimeout(self._remaining())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
