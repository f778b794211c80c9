"""What the page says of one request: the record, its parts, the decision, and OTLP."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import otlp
from benchmarks.decision import Decision
from benchmarks.hot_path import HotPath
from benchmarks.results.tables import table
from benchmarks.timing import ratio

_RECORD = """\
The cost of a record is the minimum of the rounds, because no ratio compensates for a busy machine
here. Of it, encoding with msgspec alone takes {:.1f} us with 40 attributes, and {:.1f} us with
prefill and decode; the rest is queue, batch, write, and pauses in which the event loop runs. The
following sections tell where the time of a request goes.
"""

_FLOOR = """\
With the SDK's own tracer the span of a request is ours
(`otel_lifecycle/telemetry/lifecycle_span.py`): its attributes, events and record are made when
somebody reads them, not while the router waits.
The router still waits for {ours:.2f} x of a bare span: keeping what it said, finding its endpoints,
adding and releasing their load, and making the ids. An SDK span without any content takes
{floor:.2f} x. The threads that write and export do the rest, in batches; it is counted below.
"""

_PROFILE = """\
The functions with the most time of their own, as a share of a sampled request with 40 attributes
(`cProfile`, which overestimates small functions and includes the thread that records metrics):
"""


def encoding_of_records(costs: HotPath) -> str:
    """Return what of a record's cost is the encoder's."""
    return _RECORD.format(*costs.encoding_us)


def where_it_goes(costs: HotPath) -> Iterator[str]:
    """Return the parts of a request."""
    yield from table(
        ("request", "attributes", "", "µs", "min", "p10-p90", "of bare"),
        (
            (
                cost.title if number == 0 else "",
                str(cost.attributes) if number == 0 else "",
                variant.name,
                f"{variant.path.median:.1f}",
                f"{variant.path.minimum:.1f}",
                f"{variant.path.p10:.1f}-{variant.path.p90:.1f}",
                f"{ratio(variant.path_us, cost.bare.path_us):.2f} x",
            )
            for cost in costs.costs
            for number, variant in enumerate(cost.variants)
        ),
    )
    first = costs.costs[0]
    yield ""
    yield _FLOOR.format(
        ours=first.sampled_to_bare,
        floor=first.floor_to_bare,
    )
    yield _PROFILE
    yield from table(
        ("function", "share"), ((f"`{name}`", f"{share:.1%}") for name, share in costs.profile)
    )


def decisions(decision: Decision) -> Iterator[str]:
    """Return what a request costs with more or less said of its candidates."""
    yield from table(
        ("a request says of its candidates", "on the path, µs", "encoding, µs", "record, bytes"),
        (
            (
                said.title,
                f"{said.path.path.median:.1f}",
                f"{said.encoding.path.median:.1f}",
                f"{said.record_bytes:,}",
            )
            for said in decision.said
        ),
    )


def encodings(costs: otlp.Costs) -> Iterator[str]:
    """Return what the encoders take."""
    yield from table(
        (
            "a span as OTLP, µs",
            "the SDK's encoder",
            "ours",
            "ours, from the record",
            "to the SDK's",
        ),
        (
            (
                each.title,
                f"{each.stock.median:.0f}",
                f"{each.span.median:.1f}",
                f"{each.record.median:.1f}",
                f"{each.to_stock:.2f} x",
            )
            for each in costs.encodings
        ),
    )
