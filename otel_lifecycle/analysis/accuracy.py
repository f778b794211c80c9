"""Compares predicted with actual latency for each endpoint."""

from __future__ import annotations

from array import array
from collections import defaultdict
from statistics import median

from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_lifecycle.analysis.formatting import UNKNOWN, count, milliseconds, shortened
from otel_lifecycle.analysis.routes import counted_endpoints, endpoint_name
from otel_lifecycle.analysis.tabular import fits, open_table, print_table
from otel_lifecycle.model.record import LifecycleRecord


class Accuracy:
    """Compares TTFT on the prefill endpoint and TPOT on the decode endpoint.

    Only requests with both a prediction and a measurement are compared.
    """

    def __init__(self) -> None:
        self._endpoints: defaultdict[str, _Endpoint] = defaultdict(_Endpoint)

    def add(self, record: LifecycleRecord) -> None:
        """Take a record into account."""
        endpoints = counted_endpoints(record)
        for _, snapshot in endpoints:
            self._endpoints[endpoint_name(snapshot)].requests += 1
        if not endpoints:
            return
        predicted, actual = record.prediction, record.actual
        prefilling, decoding = (
            self._endpoints[endpoint_name(snapshot)]
            for _, snapshot in (endpoints[0], endpoints[-1])
        )
        prefilling.compared["TTFT"].add(predicted.ttft_ms, actual.ttft_ms)
        decoding.compared["TPOT"].add(predicted.tpot_ms, actual.tpot_ms)

    def print(self, console: Console) -> None:
        """Print the table."""
        if not self._endpoints:
            return
        console.print(Text("Predicted against actual latency, in ms", style="bold"))
        console.print(
            Text(
                "n: requests that were predicted; medians of these, and the mean absolute error",
                style="dim",
            )
        )
        # Both latencies side by side, or below each other on a narrow terminal.
        both = self._table("TTFT", "TPOT")
        parts = (both,) if fits(both, console) else (self._table("TTFT"), self._table("TPOT"))
        for table in parts:
            print_table(table, console)
            console.print()

    def _table(self, *targets: str) -> Table:
        table = open_table()
        table.add_column("\nendpoint", overflow="fold")
        table.add_column("\nrequests", justify="right", no_wrap=True)
        for target in targets:
            for first, second in ((target, "n"), ("", "predicted"), ("", "actual"), ("", "error")):
                table.add_column(f"{first}\n{second}", justify="right", no_wrap=True)
        for name, endpoint in sorted(self._endpoints.items()):
            cells = [cell for target in targets for cell in endpoint.compared[target].cells()]
            table.add_row(shortened(name), count(endpoint.requests), *cells)
        return table


class _Endpoint:
    def __init__(self) -> None:
        self.requests = 0
        self.compared = {"TTFT": _Comparison(), "TPOT": _Comparison()}


class _Comparison:
    def __init__(self) -> None:
        self._predicted = array("d")
        self._actual = array("d")

    def add(self, predicted: float | None, actual: float | None) -> None:
        if predicted is not None and actual is not None:
            self._predicted.append(predicted)
            self._actual.append(actual)

    def cells(self) -> list[str]:
        if not self._predicted:
            return [UNKNOWN] * 4
        pairs = zip(self._predicted, self._actual, strict=True)
        return [
            count(len(self._predicted)),
            milliseconds(median(self._predicted)),
            milliseconds(median(self._actual)),
            milliseconds(
                sum(abs(actual - predicted) for predicted, actual in pairs) / len(self._actual)
            ),
        ]
