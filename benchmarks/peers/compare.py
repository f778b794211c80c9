"""Times the peers in turns, each beside a bare SDK span with the same content."""

from __future__ import annotations

import importlib
import importlib.metadata
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from opentelemetry.sdk.trace import ReadableSpan

from benchmarks import sink
from benchmarks.peers.peer import Bench, Peer
from benchmarks.timing import WARM_UPS, Spread, Variant, interleave, load, ratio

MODULES = (
    "bare_sdk",
    "ours",
    "production_stack",
    "util_genai",
    "asgi_middleware",
    "litellm_callback",
    "openinference",
    "openllmetry",
    "logfire_span",
    "otlp_json_file",
    "python_logging",
)
ROUNDS = 40
REQUESTS = 25

# The peers' names for each fact: in the name of an attribute or event, or in a line.
FACTS = {
    "endpoint": ("server.address", "server_address", "backend_url", "api_base", "leader"),
    "prefill/decode": ("prefill.", '"prefill":'),
    "load": ("inflight", "running"),
    "prediction": ("predict",),
    "TTFT": ("time_to_first", "first_chunk", "first chunk", "first token", "ttft"),
    "tokens": ("usage", "token_count", "outputlength"),
}


@dataclass(frozen=True)
class Compared:
    """The cost of one peer and its output; CPU in microseconds per request.

    Attributes:
        name: Name of the peer.
        version: Version of its distribution; empty if there is none.
        path: CPU on the request's path, minus that of a request without instrumentation.
        everything: CPU of all threads, until everything is written and exported.
        ratio: `path` relative to equal bare SDK spans; None if it has no span.
        spans: Spans per request.
        attributes: Attributes on these spans, or fields of a line if there is no span.
        events: Events on these spans.
        says: Which of `FACTS` the spans have, or the line if there is no span.
        file_bytes: Bytes per request in its file of records; None if it has none.
    """

    name: str
    version: str
    path: Spread
    everything: float
    ratio: float | None
    spans: int
    attributes: int
    events: int
    says: frozenset[str]
    file_bytes: float | None

    @property
    def per_attribute(self) -> float:
        """CPU on the path per attribute."""
        return self.path.median / max(1, self.attributes)


@dataclass(frozen=True)
class Comparison:
    """All peers, and the missing ones with the reason.

    Attributes:
        peers: The peers, in the order of the modules.
        missing: Reasons by peer.
        load: Load of the machine, before and after.
    """

    peers: list[Compared]
    missing: dict[str, str] = field(default_factory=dict[str, str])
    load: tuple[float, float] = (0.0, 0.0)


class _Entrant:
    """An open peer, beside the same request without it, and bare spans with its content."""

    def __init__(self, peer: Peer, bench: Bench, version: str, url: str) -> None:
        self._peer = peer
        self._version = version

        def settle() -> None:
            peer.settle()
            bench.settle()

        self._spans = _spans_of(peer, bench)
        self._fields = peer.fields
        self._alone = Variant("alone", peer.alone)
        self._followed = Variant("followed", peer.serve, settle)
        self._bare = _saying(self._spans, url)
        self.variants = [self._alone, self._followed, self._bare]

    def compared(self) -> Compared:
        alone = self._alone.timed
        path = _net(self._followed.timed.path_us, alone.path_us)
        bare = self._bare.timed.path_us
        file = self._peer.file
        return Compared(
            name=self._peer.name,
            version=self._version,
            path=Spread.of(path),
            everything=statistics.median(_net(self._followed.timed.all_us, alone.all_us)),
            ratio=ratio(path, bare) if self._spans else None,
            spans=len(self._spans),
            attributes=sum(len(span.attributes or {}) for span in self._spans) or self._fields,
            events=sum(len(span.events) for span in self._spans),
            says=_said(self._spans, file),
            file_bytes=None if file is None else file.stat().st_size / _served(),
        )


def compare() -> Comparison:
    """Time them all, in this process."""
    missing: dict[str, str] = {}
    entrants: list[_Entrant] = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        url = stack.enter_context(sink.running()).url
        for module_name in MODULES:
            try:
                module = importlib.import_module(f"benchmarks.peers.{module_name}")
                for number, open_peer in enumerate(module.OPENERS):
                    folder = Path(name) / f"{module_name}-{number}"
                    folder.mkdir()
                    bench = Bench(folder, url)
                    peer = open_peer(bench)
                    stack.callback(peer.close)
                    entrants.append(_Entrant(peer, bench, _version(module), url))
            except Exception as error:  # a peer may fail in any way
                missing[module_name] = f"{type(error).__name__}: {error}"
        before = load()
        interleave(
            [variant for entrant in entrants for variant in entrant.variants], ROUNDS, REQUESTS
        )
        peers = [entrant.compared() for entrant in entrants]
    return Comparison(peers, missing, (before, load()))


def _version(module: ModuleType) -> str:
    distribution: str | None = module.DISTRIBUTION
    return "" if distribution is None else importlib.metadata.version(distribution)


def _spans_of(peer: Peer, bench: Bench) -> list[ReadableSpan]:
    bench.kept.keeping = True
    peer.serve(-1)
    peer.settle()
    bench.kept.keeping = False
    return bench.kept.spans


def _saying(spans: Sequence[ReadableSpan], url: str) -> Variant:
    """Bare SDK spans with the same attributes and events, prepared in advance."""
    bench = Bench(Path(), url)
    tracer = bench.tracer_provider().get_tracer("bare")
    said = [
        (
            span.name,
            dict(span.attributes or {}),
            [(event.name, dict(event.attributes or {})) for event in span.events],
        )
        for span in spans
    ]

    def serve(_: int) -> None:
        for name, attributes, events in said:
            span = tracer.start_span(name, attributes=attributes)
            for event_name, event_attributes in events:
                span.add_event(event_name, event_attributes)
            span.end()

    return Variant("bare", serve, bench.settle)


def _served() -> int:
    """Return the number of a peer's requests: one to read, one to warm up, and the rounds."""
    return 2 + ROUNDS * (WARM_UPS + REQUESTS)


def _net(followed: Sequence[float], alone: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(followed, alone, strict=True)]


def _said(spans: Sequence[ReadableSpan], file: Path | None) -> frozenset[str]:
    words = [name.lower() for span in spans for name in (span.attributes or {})]
    words += [event.name.lower() for span in spans for event in span.events]
    if not spans and file is not None:
        words = [file.read_text("utf-8").partition("\n")[0].lower()]
    return frozenset(
        fact
        for fact, names in FACTS.items()
        if any(name in word for name in names for word in words)
    )
