"""Computes the load of each endpoint over time from the records."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from otel_lifecycle.analysis.formatting import count, shortened
from otel_lifecycle.analysis.routes import counted_endpoints, endpoint_name
from otel_lifecycle.analysis.tabular import open_table, print_table
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.timestamps import parse_timestamp

_LEVELS = " ▁▂▃▄▅▆▇█"
_OTHER_COLUMNS_WIDTH = 44


class LoadHistory:
    """Requests and tokens in flight, until the first chunk on a prefill endpoint, else to the end.

    A rerouted request counts only on its last route, from its last reroute.
    """

    def __init__(self) -> None:
        self._endpoints: defaultdict[str, _Changes] = defaultdict(_Changes)
        self._start_ns: int | None = None
        self._end_ns = 0

    def add(self, record: LifecycleRecord) -> None:
        """Take a record into account."""
        if record.completed_at is None:
            return
        started_ns = parse_timestamp(record.started_at)
        completed_ns = parse_timestamp(record.completed_at)
        first = started_ns if self._start_ns is None else min(started_ns, self._start_ns)
        self._start_ns, self._end_ns = first, max(completed_ns, self._end_ns)
        begin_ns = started_ns
        if record.rerouted:
            begin_ns = max(started_ns, parse_timestamp(record.rerouted[-1].at))
        for role, snapshot in counted_endpoints(record):
            end_ns = completed_ns
            if role == "prefill" and record.first_chunk_at is not None:
                end_ns = parse_timestamp(record.first_chunk_at)
            changes = self._endpoints[endpoint_name(snapshot)]
            changes.add(begin_ns, max(begin_ns, end_ns), record.input_token_length or 0)

    def print(self, console: Console) -> None:
        """Print peaks and curves, all curves to one scale."""
        if not self._endpoints or self._start_ns is None:
            return
        seconds = (self._end_ns - self._start_ns) / 1e9
        console.print(Text("In-flight load over time", style="bold"))
        width = max(10, console.width - _OTHER_COLUMNS_WIDTH)
        curves = {
            name: changes.curve(self._start_ns, self._end_ns, width)
            for name, changes in self._endpoints.items()
        }
        highest = max(max(curve) for curve in curves.values())
        table = open_table()
        table.add_column("endpoint\n", overflow="fold")
        table.add_column("peak\nrequests", justify="right")
        table.add_column("peak\ntokens", justify="right")
        table.add_column(f"requests, 0 to {highest}\n{'0 s':<{width - 8}}{seconds:6.1f} s")
        for name, changes in sorted(self._endpoints.items()):
            curve = "".join(_LEVELS[_level(value, highest)] for value in curves[name])
            peak_requests, peak_tokens = changes.peaks()
            table.add_row(
                shortened(name), count(peak_requests), count(peak_tokens), Text(curve, "cyan")
            )
        print_table(table, console)
        console.print()


class _Changes:
    """The times at which an endpoint's load changes by one request, and its tokens."""

    def __init__(self) -> None:
        self._starts_ns = array("q")
        self._ends_ns = array("q")
        self._tokens: list[int] = []  # JSON numbers may exceed 64 bits

    def add(self, start_ns: int, end_ns: int, tokens: int) -> None:
        self._starts_ns.append(start_ns)
        self._ends_ns.append(end_ns)
        self._tokens.append(tokens)

    def peaks(self) -> tuple[int, int]:
        """Return the highest number of requests and of tokens."""
        levels = list(self._levels())
        return max(requests for _, requests, _ in levels), max(tokens for *_, tokens in levels)

    def curve(self, start_ns: int, end_ns: int, width: int) -> list[int]:
        """Return the highest number of requests in each of `width` equal intervals."""
        curve = [0] * width
        stretch = max(1, end_ns - start_ns) / width
        before, position = 0, 0
        for time_ns, requests, _ in self._levels():
            index = min(width - 1, int((time_ns - start_ns) / stretch))
            for crossed in range(position + 1, index + 1):
                curve[crossed] = before
            curve[index] = max(curve[index], requests)
            before, position = requests, index
        return curve

    def _levels(self) -> Iterator[tuple[int, int, int]]:
        """Yield time, requests and tokens after each change; ends come before starts."""
        starts = zip(self._starts_ns, self._tokens, strict=True)
        ends = zip(self._ends_ns, self._tokens, strict=True)
        changes = [(time_ns, 1, tokens) for time_ns, tokens in starts]
        changes += [(time_ns, -1, -tokens) for time_ns, tokens in ends]
        requests = tokens = 0
        for time_ns, request_change, token_change in sorted(changes):
            requests += request_change
            tokens += token_change
            yield time_ns, requests, tokens


def _level(value: int, highest: int) -> int:
    return -(-value * (len(_LEVELS) - 1) // highest) if highest else 0
