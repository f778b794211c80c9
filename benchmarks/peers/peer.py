"""The interface of a peer: it follows one streamed request, and returns what it recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler

from benchmarks.requests import exporting

CHUNKS = 33  # of one answer


class Kept(SpanProcessor):
    """Keeps finished spans on demand, and costs next to nothing otherwise."""

    def __init__(self) -> None:
        self.keeping = False
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        if self.keeping:
            self.spans.append(span)


class Bench:
    """The environment of a peer: usual providers with an exporter, and a folder for its file.

    Args:
        folder: Folder for files.
        url: Of the collector; nothing is exported without one.
    """

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self.kept = Kept()
        self.meter_provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        self._url = url
        self._providers: list[TracerProvider] = []

    def tracer_provider(
        self, sampler: Sampler | None = None, *, adopted: bool = False, exports: bool = True
    ) -> TracerProvider:
        """Return a provider whose spans are kept on demand and exported; it samples all.

        Args:
            sampler: Another sampler.
            adopted: Whether our encoder is used.
            exports: Whether spans are exported over OTLP.
        """
        provider = TracerProvider(sampler, shutdown_on_exit=False)
        provider.add_span_processor(self.kept)
        if exports and self._url:
            exporting(provider, self._url, adopted=adopted)
        self._providers.append(provider)
        return provider

    def settle(self) -> None:
        """Export the spans."""
        for provider in self._providers:
            provider.force_flush()


@dataclass
class Peer:
    """One way to follow a request.

    Attributes:
        name: Name in the table.
        serve: Serves and follows one request, given its number.
        alone: Serves the same request without instrumentation.
        settle: Does the work that `serve` left to other threads.
        file: Its file of records, if it writes one.
        fields: Fields of a line of that file, if there is no span.
        close: Releases its resources.
    """

    name: str
    serve: Callable[[int], object]
    alone: Callable[[int], object]
    settle: Callable[[], object] = lambda: None
    file: Path | None = None
    fields: int = 0
    close: Callable[[], object] = lambda: None


class Chunks:
    """An answer in chunks."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(CHUNKS))


def stream(_: int) -> None:
    """Pass on an answer without instrumentation."""
    for _chunk in Chunks():
        pass
