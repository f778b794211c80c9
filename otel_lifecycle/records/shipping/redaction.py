"""Keeps secrets in OpenTelemetry's variables out of messages about a collector."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote

from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_HEADERS,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_HEADERS,
)

ENDPOINT_VARIABLES = (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT)
_HEADER_VARIABLES = (OTEL_EXPORTER_OTLP_TRACES_HEADERS, OTEL_EXPORTER_OTLP_HEADERS)

_SHORTEST = 6  # characters; shorter secrets occur in ordinary words
_HIDDEN = "***"


def without_secrets(endpoint: str) -> str:
    """Return an endpoint, valid or not, without credentials, query string and fragment."""
    return re.sub(r"[^/]*@", "", re.split(r"[?#]", endpoint)[0])


class Redactor:
    """Hides credentials and query strings of the endpoints, and the values of headers."""

    def __init__(self) -> None:
        found = {secret for secret in _secrets() if len(secret) >= _SHORTEST}
        self._secrets = sorted(found, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text


def _secrets() -> Iterator[str]:
    for name in ENDPOINT_VARIABLES:
        endpoint = os.environ.get(name, "")
        address, _, query = endpoint.partition("?")
        yield query
        for _, value in parse_qsl(query):
            yield value
        credentials = re.search(r"([^/]*)@", address)
        if credentials:
            for each in (credentials[1], *credentials[1].split(":", 1)):
                yield each
                yield unquote(each)
    for name in _HEADER_VARIABLES:
        for pair in os.environ.get(name, "").split(","):
            value = pair.partition("=")[2].strip()
            for each in (value, unquote(value)):
                yield each
                yield each.rpartition(" ")[2]  # of `Bearer token`
