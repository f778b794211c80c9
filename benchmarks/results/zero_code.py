"""What the page says of zero code: budgets, the sentence it opens with, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.budget import Budget
from benchmarks.results.chart import Bar
from benchmarks.results.tables import table
from benchmarks.zero_code.measure import Result
from benchmarks.zero_code.programs import (
    BY_EVENT,
    FLOOR,
    PAIR,
    UNINSTRUMENTED,
    WHOLE,
    ZERO_CODE,
)

CPU_LIMIT = 1.25
_RATE_LIMIT = 0.8
LEGEND = "CPU of a request streamed event by event; spans and metrics exported, records written"
_WHY = (
    "The floor is {floor:.2f} x: one empty SDK span, made by hand and exported the same way. The "
    "rest reads request and answer, and makes the metrics, the whole span and the record"
)


def budgets(results: Sequence[Result]) -> Iterator[Budget]:
    """Return the promises about the lean router."""
    lean = results[0]
    for kind in (BY_EVENT, WHOLE):
        why = _WHY.format(floor=lean.cpu_ratio(kind, FLOOR))
        why_rate = _WHY.format(floor=lean.rate_ratio(kind, FLOOR))
        what = f"zero code, {kind}"
        yield Budget(
            f"{what}: CPU to uninstrumented", CPU_LIMIT, lean.cpu_ratio(kind), "x", why=why
        )
        rate = lean.rate_ratio(kind)
        yield Budget(
            f"{what}: requests/s to uninstrumented",
            _RATE_LIMIT,
            rate,
            "x",
            at_least=True,
            why=why_rate,
        )


def takeaway(results: Sequence[Result]) -> str:
    """Return the sentence that says what zero code costs."""
    lean, *others = results
    text = (
        "Under zero code, with spans and metrics exported and the record file on, a router that "
        f"does nothing else needs {lean.cpu_ratio(BY_EVENT):.2f} times its CPU for streams that "
        f"arrive event by event and {lean.cpu_ratio(WHOLE):.2f} times for whole answers"
    )
    real = [f"{each.title} {_ratio(each):.2f} times" for each in others if each.rounds]
    return f"{text}. For streams, {', '.join(real)}." if real else f"{text}."


def title(results: Sequence[Result]) -> str:
    """Return the takeaway of the chart."""
    lean, *_ = bars(results)
    return (
        f"Under zero code, a lean router needs {lean.ratio:.2f} times its CPU for a stream: "
        f"{lean.added_us / 1000:.2f} ms more"
    )


def bars(results: Sequence[Result]) -> list[Bar]:
    """Return a bar for each router that was run, with streams."""
    return [
        Bar(
            each.title,
            _ratio(each),
            each.cpu_us(_kind(each), ZERO_CODE) - each.cpu_us(_kind(each), UNINSTRUMENTED),
        )
        for each in results
        if each.rounds
    ]


def _ratio(result: Result) -> float:
    return result.cpu_ratio(_kind(result))


def _kind(result: Result) -> str:
    """Return the streams that an engine sends."""
    return BY_EVENT if BY_EVENT in result.rounds else PAIR


def tables(results: Sequence[Result]) -> Iterator[str]:
    """Return the table of all routers, and what was not run."""
    yield from table(
        (
            "router",
            "requests",
            "instrumentation",
            "CPU, µs",
            "to uninstrumented",
            "p10-p90",
            "requests/s",
            "to uninstrumented",
        ),
        (row for each in results for row in _rows(each)),
    )
    for each in results:
        if each.missing:
            yield f"\n{each.title}: not measured, because {each.missing}."


def _rows(result: Result) -> Iterator[tuple[str, ...]]:
    name = f"{result.title} {result.version}".strip()
    for kind, variants in result.rounds.items():
        shown = kind
        for variant, rounds in variants.items():
            low, high = result.cpu_spread(kind, variant)
            yield (
                name,
                shown,
                variant,
                f"{median(rounds.cpu_us):,.0f}",
                f"{result.cpu_ratio(kind, variant):.2f} x",
                f"{low:.2f}-{high:.2f}",
                f"{median(rounds.rate):,.0f}",
                f"{result.rate_ratio(kind, variant):.2f} x",
            )
            name = shown = ""
