"""Scrapes over HTTP, with limits on time and size, and without following redirects."""

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
    """A scrape failed.

    Args:
        state: The reason in one word; becomes the state of the target.
        detail: Further information for the log.
    """

    def __init__(self, state: str, detail: object = "") -> None:
        super().__init__(f"{state}: {detail}" if detail else state)
        self.state = state


class Fetcher:
    """Fetches URLs. An async context manager, used by one event loop.

    It uses aiohttp: a scrape takes an eighth of the CPU that httpx needs, and the time limit covers
    the whole exchange, not each step of it.

    Args:
        tls: TLS settings for https.
        timeout: Time limit of one exchange, in seconds.
        concurrency: Limit of simultaneous connections.
        max_bytes: Limit of a body after decompression.
    """

    def __init__(
        self, tls: ssl.SSLContext, *, timeout: float, concurrency: int, max_bytes: int
    ) -> None:
        self._max_bytes = max_bytes
        self._session = aiohttp.ClientSession(
            # Keep-alive would take a file descriptor for each of a thousand engines.
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
        """Return the decompressed body of a response with status 200; follow no redirects.

        Args:
            url: The URL.
            authorization_file: See `TargetConfig`.
            content_types: The accepted types; a response without a type is accepted too.

        Raises:
            ScrapeError: The response has another status or type, is too large, or did not arrive.
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
        decompressor = zlib.decompressobj(_GZIP) if encoding == "gzip" else None
        body = bytearray()
        async for piece in response.content.iter_any():
            if decompressor is not None:
                try:
                    piece = decompressor.decompress(piece, self._max_bytes + 1 - len(body))
                except zlib.error:
                    raise ScrapeError("bad_encoding") from None
            body += piece
            if len(body) > self._max_bytes:
                raise ScrapeError("too_large")
        if decompressor is not None and not decompressor.eof:
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
    """Return the TLS settings: trusted certificates, and the client certificate.

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
        raise ConfigError(
            f"collection: {named}: cannot be read as a certificate: {error}"
        ) from error
    if not config.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
