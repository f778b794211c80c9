"""The interface of a peer: it follows one streamed request, and returns what it recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SDKMeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler

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
    """The environment of a peer: usual providers, and a folder for its file.

    Args:
        folder: Folder for files.
        metrics: Whether the peer records metrics too.
    """

    def __init__(self, folder: Path, *, metrics: bool) -> None:
        self.folder = folder
        self.kept = Kept()
        self.meter_provider: MeterProvider = (
            SDKMeterProvider([InMemoryMetricReader()]) if metrics else NoOpMeterProvider()
        )

    def tracer_provider(self, sampler: Sampler | None = None) -> TracerProvider:
        """Return a provider that gives spans to `kept`; by default it samples all."""
        provider = TracerProvider(sampler)
        provider.add_span_processor(self.kept)
        return provider


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
