"""What a peer is: something that follows one streamed request, and tells what it recorded."""

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
    """Keeps finished spans while it is told to, and costs next to nothing while it is not."""

    def __init__(self) -> None:
        self.keeping = False
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        if self.keeping:
            self.spans.append(span)


class Bench:
    """What a peer is built upon: providers like everybody's, and a folder for its file.

    Args:
        folder: For files.
        metrics: Whether the peer records metrics too.
    """

    def __init__(self, folder: Path, *, metrics: bool) -> None:
        self.folder = folder
        self.kept = Kept()
        self.meter_provider: MeterProvider = (
            SDKMeterProvider([InMemoryMetricReader()]) if metrics else NoOpMeterProvider()
        )

    def tracer_provider(self, sampler: Sampler | None = None) -> TracerProvider:
        """One that hands spans to `kept`, and samples all unless told otherwise."""
        provider = TracerProvider(sampler)
        provider.add_span_processor(self.kept)
        return provider


@dataclass
class Peer:
    """One way to follow a request.

    Attributes:
        name: What the table calls it.
        serve: Serves one request, followed, given its number.
        alone: Serves the same request with nobody following it.
        settle: Does what `serve` left to other threads.
        file: Its file of records, if it writes one.
        fields: Fields of a line of that file, where no span has them.
        close: Gives back what it holds.
    """

    name: str
    serve: Callable[[int], object]
    alone: Callable[[int], object]
    settle: Callable[[], object] = lambda: None
    file: Path | None = None
    fields: int = 0
    close: Callable[[], object] = lambda: None


class Chunks:
    """An answer that comes in chunks."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(CHUNKS))


def stream(_: int) -> None:
    """Passes an answer on, with nobody following it."""
    for _chunk in Chunks():
        pass
