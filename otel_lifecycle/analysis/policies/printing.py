"""Prints what is known of policies, and writes it as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_lifecycle.analysis.exports.whole_file import whole_file
from otel_lifecycle.analysis.formatting import UNKNOWN, count, milliseconds, percent
from otel_lifecycle.analysis.policies.comparison import Comparison
from otel_lifecycle.analysis.policies.intervals import Estimate
from otel_lifecycle.analysis.policies.judgement import Judgement
from otel_lifecycle.analysis.tabular import open_table, print_table

_COLUMNS = {
    "goodput": "good %",
    "ttft_p50_ms": "TTFT\np50",
    "ttft_p95_ms": "\np95",
    "tpot_p50_ms": "TPOT\np50",
    "tpot_p95_ms": "\np95",
    "cached": "cached\n%",
    "busiest": "busiest\n×",
    "regret_ms": "regret\nmean",
}
_SHARES = ("goodput", "cached")


def print_comparison(comparison: Comparison, runs: int, console: Console) -> None:
    """Print a table, a row a policy.

    Args:
        comparison: What to print.
        runs: Runs of each policy.
        console: The terminal.
    """
    shown = [name for name in _COLUMNS if any(row[name] for row in comparison.values())]
    table = _table("\npolicy", *(_COLUMNS[name] for name in shown))
    for policy, measures in comparison.items():
        table.add_row(policy, *(_cell(measures[name], _scale(name)) for name in shown))
    print_table(table, console)
    meaning = "latencies in ms"
    if runs > 1:
        meaning += f"; means of {runs} runs, below them ± half of the 95 % interval"
    console.print(Text(meaning, style="dim"))


def print_judgements(judgements: Mapping[str, Judgement], console: Console) -> None:
    """Print a table, a row a policy."""
    table = _table(
        "\npolicy", "\nmethod", "\nrequests", "\nagrees", "\neffective", "good\n%", "TTFT\nmean",
        "TPOT\nmean",
    )  # fmt: skip
    for policy, one in judgements.items():
        effective = None if one.effective is None else round(one.effective)
        table.add_row(
            policy,
            one.method,
            count(one.requests),
            percent(one.agreement),
            count(effective),
            _cell(one.goodput, 100.0),
            _cell(one.ttft_ms),
            _cell(one.tpot_ms),
        )
    print_table(table, console)
    console.print(
        Text(
            "latencies in ms; below them ± half of the 95 % interval; each policy as if "
            "only single requests followed it",
            style="dim",
        )
    )


def write_json(known: object, path: Path) -> None:
    """Write what is known of policies as JSON."""
    content = msgspec.json.format(msgspec.json.encode(known, order="deterministic"), indent=1)
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content + b"\n")


def _table(*columns: str) -> Table:
    table = open_table()
    for number, column in enumerate(columns):
        is_text = column in ("\npolicy", "\nmethod")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=number > 0)
    return table


def _scale(name: str) -> float:
    return 100.0 if name in _SHARES else 1.0


def _cell(estimate: Estimate | None, scale: float = 1.0) -> str:
    if estimate is None:
        return UNKNOWN
    value, low, high = (
        None if end is None else end * scale
        for end in (estimate.value, estimate.low, estimate.high)
    )
    if high is None:
        return milliseconds(value)
    if value is None:
        return f"{milliseconds(low)} to {milliseconds(high)}"
    return f"{milliseconds(value)}\n± {milliseconds(high - value)}"
