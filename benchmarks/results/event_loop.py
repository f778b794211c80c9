"""What the page says of the event loop."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks import event_loop_lag
from benchmarks.budget import Budget
from benchmarks.results.tables import table

_LAG = """\
A router on asyncio with prefill and decode endpoints and {rate:,} requests per second runs in
six variants, each in a separate process, in turns for {rounds} rounds. The lag is the delay of a
timer of one millisecond. It has three parts:

- The work of the loop itself. "As busy as ours" is the router without instrumentation, whose loop
  uses {busier:.0f} us more per request, as ours did in the previous round: no thread, no memory,
  no file. This alone gives {busy:.2f} x.
- The work of threads under the same interpreter lock. Our threads release it every few records;
  an exporter does not. Encoding and sending takes {encoding:.0f} us per request here, so all
  threads of the router together need {wanted:.0%} of one CPU.
- The work of other processes. {cpus} CPUs are shared by the router, the receiver of its exports,
  and `otel-lifecycle ship`, which does the encoding and takes {ship:.0f} us per request.
"""


def budgets(lags: Sequence[event_loop_lag.Variant]) -> list[Budget]:
    """Return the promises about the lag."""
    base, busy, _, in_process, by_process, shipped = lags
    why = f"As much work of the loop itself, and nothing else, gives {busy.p99_to(base):.2f} x"
    return [
        Budget(
            f"p99 of the event loop's lag, {how}, to uninstrumented",
            limit,
            lag.p99_to(base),
            "x",
            why=why,
        )
        for how, limit, lag in (
            ("exporting in process", 3.0, in_process),
            ("with `writer=process`", 1.5, by_process),
            ("with `ship`", 1.5, shipped),
        )
    ]


def section(lags: Sequence[event_loop_lag.Variant]) -> Iterator[str]:
    """Return what the lag consists of, and a table."""
    yield _lag_parts(lags)
    yield from _lags(lags)


def _lag_parts(lags: Sequence[event_loop_lag.Variant]) -> str:
    base, busy, _, in_process, _, shipped = lags
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
    yield from table(
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
