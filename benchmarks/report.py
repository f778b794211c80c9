"""Writes the results as a page: `benchmarks/RESULTS.md`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks import event_loop_lag, growth, hot_path, otlp
from benchmarks.growth import Growth
from benchmarks.hot_path import Budget, HotPath
from benchmarks.peers import compare
from benchmarks.peers.compare import FACTS, Comparison
from benchmarks.peers.peer import CHUNKS

_HEAD = """\
# Results

Written by `make bench`, which installs the peers into a separate environment. All figures are CPU
time, not elapsed time, so other processes matter less. Compared variants take turns in short
rounds in one process, without garbage collection. A figure is the median of the rounds, a ratio
the median of the ratios of neighbouring rounds, and "p10-p90" their spread. On a busy machine a
CPU second does less work; "min" is then the most accurate figure.

![By peer, and by number of endpoints and of requests in flight](results.svg)
"""

_RECORD = """
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

_LAG = """\
A router on asyncio with prefill and decode endpoints and {rate:,} requests per second runs in
five variants, each in a separate process, in turns for {rounds} rounds. The lag is the delay of a
timer of one millisecond. It has three parts:

- The work of the loop itself. "As busy as ours" is the router without instrumentation, whose loop
  uses {busier:.0f} us more per request, as ours did in the previous round: no thread, no memory,
  no file. This alone gives {busy:.2f} x.
- The work of threads under the same interpreter lock. Our threads release it every few records;
  an exporter does not. Encoding and sending takes {encoding:.0f} us per request here, so all
  threads of the router together need {wanted:.0%} of one CPU. A bare SDK span with the standard
  exporter misses the budget for the same reason.
- The work of other processes. {cpus} CPUs are shared by the router, the receiver of its exports,
  and `otel-lifecycle ship`, which does the encoding and takes {ship:.0f} us per request.
"""

_PEERS = """\
The request has one answer of {chunks} chunks. The path is the work that a request waits for: the
CPU of its own thread, minus that of the same request without instrumentation. "Of bare" compares
with bare SDK spans that have the peer's attributes and events, prepared in advance and all set at
the start. "All threads" includes writing records and exporting to a file; metrics are off except
in their own column.

The peers do different work; the second table shows what each records. `bare SDK span`, `logfire`,
the OTLP-JSON file and `Python logging` get our 40 values ready-made, whereas ours computes them.
`production-stack's tracing` makes the same calls to the SDK as its router. `LiteLLM's callback`
is called once, after the answer. `Python logging` writes its line on the request's path.
"""

_GIVEN = ("bare SDK span", "logfire", "Python logging")

_GROWTH = """\
Sampled requests with their records. Endpoints are used in turns, each with known NPUs, and memory
is per endpoint; the other requests in flight use a prefill and a decode endpoint, and memory is
per request.
"""


def page(
    costs: HotPath,
    otlp_costs: otlp.Costs,
    lags: Sequence[event_loop_lag.Variant],
    comparison: Comparison,
    endpoints: Sequence[Growth],
    in_flight: Sequence[Growth],
) -> str:
    """Return the page."""
    return "\n".join(
        [
            _HEAD,
            _machine(costs, comparison),
            "\n## Budgets\n",
            *_budgets(
                [
                    *((budget, "hot_path") for budget in costs.budgets),
                    *((budget, "otlp") for budget in otlp_costs.budgets),
                    *((budget, "event_loop_lag") for budget in _lag_budgets(lags)),
                ]
            ),
            _RECORD.format(*costs.encoding_us),
            "\n## Where it goes\n",
            *_floor(costs),
            "\n## OTLP\n",
            *_encodings(otlp_costs),
            "\n## The event loop\n",
            _lag_parts(lags),
            *_lags(lags),
            "\n## Peers\n",
            _PEERS.format(chunks=CHUNKS),
            *peers_section(comparison),
            "\n## Growth\n",
            _GROWTH,
            *_growth("endpoints", endpoints),
            "",
            *_growth("requests in flight", in_flight),
            "",
        ]
    )


def peers_section(comparison: Comparison) -> Iterator[str]:
    """Return two tables: the cost of each peer, and its output."""
    yield from _table(
        (
            "peer",
            "on the path, µs",
            "min",
            "p10-p90",
            "of bare",
            "an attribute, µs",
            "with metrics, µs",
            "all threads, µs",
            "+ OTLP encoding, µs",
        ),
        (
            (
                f"{peer.name} {peer.version}".strip(),
                f"{peer.path.median:.0f}",
                f"{peer.path.minimum:.0f}",
                f"{peer.path.p10:.0f}-{peer.path.p90:.0f}",
                "" if peer.ratio is None else f"{peer.ratio:.2f} x",
                f"{peer.per_attribute:.1f}" if peer.attributes else "",
                f"{peer.with_metrics:.0f}",
                f"{peer.everything:.0f}",
                "" if peer.export is None else f"{peer.export:.0f}",
            )
            for peer in comparison.peers
        ),
    )
    yield ""
    yield from _table(
        ("peer", "spans", "attributes", "events", *FACTS, "file of records, bytes"),
        (
            (
                peer.name,
                str(peer.spans),
                str(peer.attributes),
                str(peer.events),
                *("yes" if fact in peer.says else "" for fact in FACTS),
                "" if peer.file_bytes is None else f"{peer.file_bytes:,.0f}",
            )
            for peer in comparison.peers
        ),
    )
    yield from _verdict(comparison)
    for name, reason in comparison.missing.items():
        yield f"\n`{name}` is missing: {reason}."


def _verdict(comparison: Comparison) -> Iterator[str]:
    """Return how ours compares with peers that gather their own data."""
    ours = comparison.peers[[peer.name for peer in comparison.peers].index("ours, 40 attributes")]
    others = [peer for peer in comparison.peers if not peer.name.startswith(("ours", *_GIVEN))]
    cheaper = [peer for peer in others if peer.path.median < ours.path.median]
    yield (
        f"\nOf the {len(others)} peers that gather their own data, "
        f"{len(others) - len(cheaper)} cost more than ours with 40 attributes. Cheaper:"
    )
    for peer in cheaper:
        yield (
            f"`{peer.name}`, with {peer.attributes} attributes of "
            f"{peer.per_attribute:.1f} us each; ours takes {ours.per_attribute:.1f} us each."
        )
    if not cheaper:
        yield "none."


def _machine(costs: HotPath, comparison: Comparison) -> str:
    loads = [*costs.load, *comparison.load]
    sdk = importlib.metadata.version("opentelemetry-sdk")
    return (
        f"{_processor()}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}; Python "
        f"{platform.python_version()}, opentelemetry-sdk {sdk}.\nLoad of the machine: "
        f"{min(loads):.1f} to {max(loads):.1f}, about 1 of it ours. {hot_path.ROUNDS} rounds of "
        f"{hot_path.REQUESTS} requests for\nthe budgets, {compare.ROUNDS} of {compare.REQUESTS} "
        f"for the peers, {growth.ROUNDS} of {growth.REQUESTS} for the growth."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _lag_budgets(lags: Sequence[event_loop_lag.Variant]) -> list[Budget]:
    base, _, _, in_process, shipped = lags
    return [
        Budget(f"p99 of the event loop's lag, {how}, to uninstrumented", 1.5, lag.p99_to(base), "x")
        for how, lag in (("exporting in process", in_process), ("with `ship`", shipped))
    ]


def _lag_parts(lags: Sequence[event_loop_lag.Variant]) -> str:
    base, busy, _, in_process, shipped = lags
    rate = event_loop_lag.RATE
    used_us = _cpu_us(in_process)[1]
    return _LAG.format(
        rate=rate,
        rounds=event_loop_lag.ROUNDS,
        busier=_cpu_us(busy)[0] - _cpu_us(base)[0],
        busy=busy.p99_to(base),
        encoding=used_us - _cpu_us(shipped)[1],
        wanted=used_us * rate / 1e6,
        cpus=os.cpu_count(),
        ship=shipped.ship_us,
    )


def _cpu_us(lag: event_loop_lag.Variant) -> tuple[float, float]:
    """Return the CPU of a request: of the loop's thread, and of all threads."""
    loop_us, all_us = zip(*lag.cpu_us, strict=True)
    return median(loop_us), median(all_us)


def _lags(lags: Sequence[event_loop_lag.Variant]) -> Iterator[str]:
    yield from _table(
        (
            "router",
            "p50, ms",
            "p99, ms",
            "p99 of uninstrumented",
            "CPU of the loop, µs",
            "of all threads, µs",
            "requests a second",
        ),
        (
            (
                lag.name,
                f"{median(lag.p50):.2f}",
                f"{median(lag.p99):.2f}",
                f"{lag.p99_to(lags[0]):.2f} x",
                *(f"{us:.0f}" for us in _cpu_us(lag)),
                f"{median(lag.rate):.0f}",
            )
            for lag in lags
        ),
    )


def _budgets(budgets: Sequence[tuple[Budget, str]]) -> Iterator[str]:
    yield from _table(
        ("promise", "at most", "measured", "", "`python -m benchmarks.`"),
        (
            (
                budget.what,
                f"{budget.limit:g} {budget.unit}",
                f"{max(0.0, budget.measured):.2f} {budget.unit}",
                "kept" if budget.met else f"missed, {budget.measured / budget.limit:.1f} times",
                f"`{command}`",
            )
            for budget, command in budgets
        ),
    )


def _floor(costs: HotPath) -> Iterator[str]:
    yield from _table(
        ("request", "attributes", "", "µs", "min", "p10-p90", "of bare"),
        (
            (
                cost.title if number == 0 else "",
                str(cost.attributes) if number == 0 else "",
                variant.name,
                f"{variant.path.median:.1f}",
                f"{variant.path.minimum:.1f}",
                f"{variant.path.p10:.1f}-{variant.path.p90:.1f}",
                f"{hot_path.ratio(variant, cost.bare):.2f} x",
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
    yield from _table(
        ("function", "share"), ((f"`{name}`", f"{share:.1%}") for name, share in costs.profile)
    )


def _encodings(costs: otlp.Costs) -> Iterator[str]:
    yield from _table(
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


def _growth(what: str, rows: Sequence[Growth]) -> Iterator[str]:
    yield from _table(
        (what, "a request, µs", "min", "p10-p90", "memory for each, KiB"),
        (
            (
                f"{row.size:,}",
                f"{row.path.median:.0f}",
                f"{row.path.minimum:.0f}",
                f"{row.path.p10:.0f}-{row.path.p90:.0f}",
                f"{row.kib:.1f}",
            )
            for row in rows
        ),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
