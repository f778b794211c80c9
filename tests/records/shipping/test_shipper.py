"""Records become spans at a collector: each at least once, and no span blocks for ever."""

from __future__ import annotations

import gzip
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from otel_lifecycle.records.shipping import Counts, notices, shipper
from otel_lifecycle.records.shipping.shipper import BATCH
from otel_lifecycle.telemetry.attributes import Details
from tests.records.helpers import make_tracker, numbered
from tests.records.segments import append, closed, lines
from tests.records.shipping.collectors import (
    ACCEPT,
    BAD_REQUEST,
    GRPC,
    REDIRECT,
    TOO_LARGE,
    UNAUTHORIZED,
    UNAVAILABLE,
    UNPROCESSABLE,
    Collector,
    Reply,
)
from tests.records.shipping.conftest import Shipping
from tests.records.shipping.records import traced
from tests.routes import disaggregated, start
from tests.wording import missing, refusal, words


def test_spans_of_the_exporter(collector: Collector, folder: Path, shipping: Shipping) -> None:
    """A shipped span equals that of the router's own exporter, to the last attribute."""
    resource = {"service.name": "router", "service.instance.id": "router-0", "zone": "a"}
    provider = TracerProvider(resource=Resource(resource), shutdown_on_exit=False)
    exporter = (GrpcExporter if collector.protocol == GRPC else HttpExporter)()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracker = make_tracker(folder / "records.jsonl", provider)
    with tracker.track(start("whole", disaggregated())) as tracked:
        tracked.chunk()
        tracked.complete(output_tokens=8, cached_tokens=128)
    with tracker.track(start("failed")) as tracked:
        tracked.fail("http_502")
    with provider.get_tracer("server").start_as_current_span("serve"):
        tracker.track(start("child")).disconnect()
    tracker.close()
    provider.shutdown()
    exported = [span for span in collector.spans if span["scope"][0] == "otel_lifecycle"]
    collector.exports.clear()

    counts = shipping.once(resource={"zone": "a"})

    assert collector.spans == exported
    assert (counts, len(exported)) == (Counts(sent=3), 3)
    assert [span["resource"] for span in exported] == [resource] * 3


def test_device_arrays(collector: Collector, folder: Path, shipping: Shipping) -> None:
    """The per-device arrays are sent if requested."""
    tracker = make_tracker(folder / "records.jsonl", TracerProvider(shutdown_on_exit=False))
    tracker.track(start("request")).complete()
    tracker.close()
    shipping.once(details=Details(npu_device_attributes=True))
    ids = collector.spans[0]["attributes"]["llm_router.route.leader.npu.device.ids"]
    assert ids == ["0", "1"]


def test_left_out(collector: Collector, folder: Path, shipping: Shipping) -> None:
    """Unsampled requests are sent only on request, untraced ones never; both are counted."""
    tracker = make_tracker(
        folder / "records.jsonl", TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    )
    tracker.track(start("unsampled")).complete()
    tracker.close()
    append(folder / "records.jsonl", traced("sampled") + lines("untraced"))

    counts = shipping.once()

    assert counts == Counts(sent=1, unsampled=1, untraced=1)
    assert collector.request_ids == ["sampled"]
    shipping.checkpoint.unlink()
    collector.exports.clear()
    assert shipping.once(unsampled=True) == Counts(sent=2, untraced=1)
    assert collector.request_ids == ["unsampled", "sampled"]


def test_checkpoint(collector: Collector, folder: Path, shipping: Shipping) -> None:
    """A restart continues after the accepted records, also after rotation and compression."""
    live = folder / "records.jsonl"
    append(live, traced("a", "b"))
    shipping.once()
    append(live, traced("c"))
    segment = closed(live, 1)
    live.rename(segment)
    append(live, traced("d"))
    shipping.once()
    segment.with_name(f"{segment.name}.gz").write_bytes(gzip.compress(segment.read_bytes()))
    segment.unlink()
    shipping.once()

    assert collector.request_ids == ["a", "b", "c", "d"]
    assert shipping.told == []
    assert os.stat(shipping.checkpoint).st_mode & 0o777 == 0o600


def test_batches(collector: Collector, folder: Path, shipping: Shipping) -> None:
    """Records are sent in batches of limited size, however many there are."""
    ids = numbered("request", 2 * BATCH + 1)
    append(folder / "records.jsonl", traced(*ids))

    assert shipping.once() == Counts(sent=len(ids))
    assert collector.asked == [ids[:BATCH], ids[BATCH:-1], ids[-1:]]


@pytest.mark.parametrize("obstacle", [UNAVAILABLE, UNAUTHORIZED, BAD_REQUEST, REDIRECT])
def test_nothing_is_taken(
    collector: Collector,
    folder: Path,
    shipping: Shipping,
    obstacle: Reply,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a collector accepts nothing, everything waits; one line has the reason."""
    monkeypatch.setattr(shipper, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")  # the exporter's own retry
    append(folder / "records.jsonl", traced("a", "b"))
    collector.answer = lambda ids: ACCEPT if shipping.told else obstacle

    assert shipping.once() == Counts(sent=2)
    assert collector.request_ids == ["a", "b"]
    reason, end = shipping.told
    assert reason.startswith("the collector accepts no spans: ")
    assert reason.endswith(f"{obstacle.message}; will keep retrying")
    assert end == "shipping resumed"


def test_stopped_while_waiting(collector: Collector, folder: Path, shipping: Shipping) -> None:
    """Records not accepted before the end are sent by the next run, and no others."""
    append(folder / "records.jsonl", traced(*numbered("first", BATCH)))
    append(folder / "records.jsonl", traced("second"))
    collector.answer = lambda ids: ACCEPT if "second" not in ids else UNAVAILABLE

    counts = shipping.until(lambda: ["second"] in collector.asked)
    collector.answer = lambda ids: ACCEPT
    again = shipping.once()

    assert (counts, again) == (Counts(sent=BATCH), Counts(sent=1))
    assert collector.request_ids == [*numbered("first", BATCH), "second"]


@pytest.mark.parametrize("refusal", [BAD_REQUEST, UNPROCESSABLE, TOO_LARGE])
def test_refused_spans(
    collector: Collector, folder: Path, shipping: Shipping, refusal: Reply
) -> None:
    """Spans that the collector never accepts are found, named and skipped; the others arrive."""
    ids = numbered("request", 20)
    bad = {"request-3", "request-17"}
    append(folder / "records.jsonl", traced(*ids))
    collector.answer = lambda asked: refusal if bad & set(asked) else ACCEPT

    counts = shipping.once()

    assert counts == Counts(sent=18, refused=2)
    assert Counter(collector.request_ids) == Counter(set(ids) - bad)
    status = refusal.code.name if collector.protocol == GRPC else refusal.status
    said = [line.replace(f"{folder}/", "") for line in shipping.told]
    assert [line.partition(" ")[0] for line in said] == ["records.jsonl:4:", "records.jsonl:18:"]
    for line in said:
        assert f"skipped, the collector refuses it: {status}" in line
        assert line.endswith(": it is not to my taste")


@pytest.mark.parametrize(
    ("reply", "counts", "told"),
    [
        (
            Reply(message="too old", rejected=2),
            Counts(sent=1, refused=2),
            "rejected 2 of the 3 spans that start here: too old",
        ),
        (
            Reply(rejected=2),
            Counts(sent=1, refused=2),
            "rejected 2 of the 3 spans that start here: no reason given",
        ),
        (
            Reply(message="all", rejected=9),
            Counts(sent=0, refused=3),
            "rejected 3 of the 3 spans that start here: all",
        ),
        (
            Reply(message="slow down", rejected=-5),
            Counts(sent=3),
            "accepted the 3 spans that start here with a warning: slow down",
        ),
        (
            Reply(message="slow down"),
            Counts(sent=3),
            "accepted the 3 spans that start here with a warning: slow down",
        ),
    ],
    ids=["some", "without a reason", "more than all", "fewer than none", "warning"],
)
def test_partial_success(
    collector: Collector,
    folder: Path,
    shipping: Shipping,
    reply: Reply,
    counts: Counts,
    told: str,
) -> None:
    """Spans that the collector dropped are reported and counted, never sent again."""
    append(folder / "records.jsonl", traced("a", "b", "c"))
    collector.answer = lambda ids: reply

    assert shipping.once() == counts
    assert len(collector.asked) == 1
    assert shipping.told == [f"{folder / 'records.jsonl'}:1: the collector {told}"]


def test_too_large(
    use: Callable[[Collector], None],
    folder: Path,
    shipping: Shipping,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch that is too large for a gRPC server is sent in halves."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    append(folder / "records.jsonl", traced(*"abcd", model="m" * 500))
    with Collector(GRPC, largest=2_500) as collector:
        use(collector)
        assert shipping.once() == Counts(sent=4)
        assert collector.request_ids == ["a", "b", "c", "d"]


def test_bad_files(collector: Collector, folder: Path, shipping: Shipping) -> None:
    """Invalid lines are reported with file, line and reason, and shipping continues."""
    compressed = gzip.compress(traced("cut"))[:-6]
    (folder / "a.jsonl.gz").write_bytes(compressed)
    append(folder / "b.jsonl", b'{"schemaVersion":1}\nnot json\n' + traced("corrupt"))
    append(folder / "c.jsonl", traced("newer", schema_version=99) + traced("c"))
    append(folder / "d.jsonl", traced("ids", trace_id="0" * 32) + traced("d", span_id="x"))
    append(folder / "e.jsonl", traced("parent", parent_span_id="f" * 17) + traced("e"))
    append(folder / "f.jsonl", traced("f") + b'{"requestId"')

    counts = shipping.once()

    told = sorted(line.replace(f"{folder}/", "") for line in shipping.told)
    assert told == [
        f"a.jsonl.gz:2: the compression is broken: {words(gzip.decompress, compressed)}",
        f"b.jsonl:1: {missing('requestId')}",
        f"b.jsonl:2: {refusal('not json')}",
        "c.jsonl:1: schemaVersion 99 is newer than 1, the newest this version can read",
        "d.jsonl:1: traceId or spanId is not valid",
        f"d.jsonl:2: {words(int, 'x', 16)}",
        f"e.jsonl:1: {words(int.to_bytes, 2**64, 8, 'big')}",
    ]
    assert Counter(collector.request_ids) == Counter(["cut", "corrupt", "c", "e", "f"])
    assert counts == Counts(sent=5, problems=7)


def test_stopped_while_the_checkpoint_cannot_be_written(
    collector: Collector, folder: Path, tmp_path: Path
) -> None:
    """Stopping does not wait for the checkpoint; the next run sends the batch again."""
    state = tmp_path / "state"
    state.mkdir()
    shipping = Shipping(folder, state / "checkpoint.json")
    append(folder / "records.jsonl", traced(*numbered("request", BATCH + 1)))
    collector.answer = lambda ids: shutil.rmtree(state, ignore_errors=True) or ACCEPT

    counts = shipping.until(lambda: bool(shipping.told))
    collector.answer = lambda ids: ACCEPT
    state.mkdir()
    again = shipping.once()

    assert (counts, again) == (Counts(sent=BATCH), Counts(sent=BATCH + 1))
    (told,) = shipping.told
    assert told.startswith("the checkpoint cannot be written: ")
    assert told.endswith("; will keep retrying")


def test_once_a_minute(
    collector: Collector, folder: Path, shipping: Shipping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often a collector fails, warns or refuses, only a few lines per minute are logged."""
    monkeypatch.setattr(shipper, "BATCH", 4)
    monkeypatch.setattr(shipper, "_FIRST_PAUSE_SECONDS", 0.001)
    append(folder / "records.jsonl", traced(*numbered("request", 120)))
    replies = itertools.cycle(
        [UNAUTHORIZED, Reply(message="slow down"), Reply(message="too old", rejected=1)]
    )

    def answer(ids: list[str]) -> Reply:
        if not ids:
            return ACCEPT
        bad = len(collector.request_ids) >= 80
        return BAD_REQUEST if bad else next(replies)

    collector.answer = answer
    counts = shipping.once()

    assert counts == Counts(sent=70, refused=50)
    kinds = [
        "the collector accepts no spans",
        "shipping resumed",
        "with a warning: slow down",
        "the collector rejected 1 of the 4 spans",
        "the collector refuses it",
    ]
    told = Counter(kind for line in shipping.told for kind in kinds if kind in line)
    assert told == Counter(dict(zip(kinds, [1, 1, 1, 1, 10], strict=True)))
    assert len(shipping.told) == 14


def test_left_out_lines_are_counted(
    collector: Collector, folder: Path, shipping: Shipping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line after a minute says how many were suppressed."""
    moments = iter([0.0, 1.0, 59.0, 60.0, 61.0])
    monkeypatch.setattr(shipper, "BATCH", 1)
    monkeypatch.setattr(notices, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    append(folder / "records.jsonl", traced("a", "b", "c", "d", "e"))
    collector.answer = lambda ids: Reply(message="slow down")
    shipping.once()

    said = [line.partition("warning: ")[2] for line in shipping.told]
    assert said == ["slow down", "slow down (2 more like it were not shown)"]
