"""One scrape over HTTP: bounded in time and size, and never led elsewhere."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Sequence
from types import TracebackType

import aiohttp

from otel_lifecycle.config.collection import CollectionConfig
from otel_lifecycle.config.settings import ConfigError
from otel_lifecycle.runtime.files import check_file, read_file

EXPOSITION = ("text/plain", "application/openmetrics-text")
JSON = ("application/json",)

_GZIP = 31  # zlib: a gzip header, the largest window


class ScrapeError(Exception):
    """Why there is nothing to read.

    Args:
        state: In one word, which becomes the state of the target.
        detail: What else is to be said.
    """

    def __init__(self, state: str, detail: object = "") -> None:
        super().__init__(f"{state}: {detail}" if detail else state)
        self.state = state


class Fetcher:
    """Fetches what a URL serves. An async context manager, used by one event loop.

    aiohttp, because a scrape costs it an eighth of what it costs httpx, and because it bounds a
    whole exchange in time, not each step of it.

    Args:
        tls: For https.
        timeout: Seconds that one exchange may take.
        concurrency: Connections at a time.
        max_bytes: Longest body, unpacked.
    """

    def __init__(
        self, tls: ssl.SSLContext, *, timeout: float, concurrency: int, max_bytes: int
    ) -> None:
        self._max_bytes = max_bytes
        self._session = aiohttp.ClientSession(
            # Kept alive, each of a thousand engines would hold a file descriptor of the router.
            connector=aiohttp.TCPConnector(limit=concurrency, ssl=tls, force_close=True),
            timeout=aiohttp.ClientTimeout(total=timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "gzip", "User-Agent": "otel-lifecycle"},
            auto_decompress=False,
            trust_env=False,
        )

    async def __aenter__(self) -> Fetcher:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def read(
        self, url: str, authorization_file: str = "", content_types: Sequence[str] = EXPOSITION
    ) -> bytes:
        """The body of a response with status 200, unpacked; redirects are not followed.

        Args:
            url: What to get.
            authorization_file: See `TargetConfig`.
            content_types: What it may be; a response that does not say may be anything.

        Raises:
            ScrapeError: There is no such body.
        """
        try:
            headers = {"Accept": ", ".join(content_types), **_authorization(authorization_file)}
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    raise ScrapeError(f"http_{response.status}")
                if "Content-Type" in response.headers and (
                    response.content_type not in content_types
                ):
                    raise ScrapeError("wrong_content_type", response.content_type)
                return await self._body(response)
        except (asyncio.TimeoutError, TimeoutError):
            raise ScrapeError("timeout") from None
        except (ssl.SSLError, aiohttp.ClientSSLError) as error:
            raise ScrapeError("tls_error", error) from None
        except (aiohttp.InvalidURL, ValueError):
            raise ScrapeError("bad_url") from None
        except aiohttp.ClientConnectorError as error:
            raise ScrapeError("unreachable", error.os_error) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ScrapeError("broken_response", type(error).__name__) from None

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            raise ScrapeError("bad_encoding", encoding)
        if response.content_length is not None and response.content_length > self._max_bytes:
            raise ScrapeError("too_large")
        unpacker = zlib.decompressobj(_GZIP) if encoding == "gzip" else None
        body = bytearray()
        async for piece in response.content.iter_any():
            if unpacker is not None:
                try:
                    piece = unpacker.decompress(piece, self._max_bytes + 1 - len(body))
                except zlib.error:
                    raise ScrapeError("bad_encoding") from None
            body += piece
            if len(body) > self._max_bytes:
                raise ScrapeError("too_large")
        if unpacker is not None and not unpacker.eof:
            raise ScrapeError("bad_encoding")
        return bytes(body)


def _authorization(path: str) -> dict[str, str]:
    if not path:
        return {}
    try:
        value = read_file(path).decode("latin-1").strip()
    except OSError as error:
        raise ScrapeError("no_authorization", error) from None
    return {"Authorization": value if " " in value else f"Bearer {value}"}


def tls_context(config: CollectionConfig) -> ssl.SSLContext:
    """How targets are trusted, and what is shown to them.

    Raises:
        ConfigError: A certificate cannot be read.
    """
    files = list(filter(None, (config.ca_file, config.cert_file, config.key_file)))
    try:
        for path in files:
            check_file(path)
        context = ssl.create_default_context(cafile=config.ca_file or None)
        if config.cert_file:
            context.load_cert_chain(config.cert_file, config.key_file or None)
    except OSError as error:  # SSLError is one
        named = ", ".join(files)
        raise ConfigError(f"collection: {named}: cannot be read as certificate: {error}") from error
    if not config.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
